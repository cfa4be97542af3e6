// Command schedule is an asynq Scheduler: registers what stdin asks for and reports what it enqueued.
package main

import (
	"errors"
	"flag"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hibiken/asynq"

	"aioasynq/conformance/internal/connect"
	"aioasynq/conformance/internal/lines"
	"aioasynq/conformance/internal/plain"
	"aioasynq/conformance/internal/request"
)

// line is {"register": {"spec", …a line of enqueue}} or {"unregister": entry id}.
type line struct {
	Register *struct {
		Spec string `json:"spec"`
		request.Enqueue
	} `json:"register"`
	Unregister string `json:"unregister"`
}

func main() {
	url := flag.String("redis", "redis://127.0.0.1:6379/0", "URL of the Redis to use")
	heartbeat := flag.Duration("heartbeat", time.Second, "interval at which entries are written")
	location := flag.String("location", "UTC", "time zone of the specs")
	flag.Parse()

	redis, err := connect.Redis(*url, "")
	if err != nil {
		lines.Fatal(err)
	}
	defer redis.Close()
	zone, err := time.LoadLocation(*location)
	if err != nil {
		lines.Fatal(err)
	}
	scheduler := asynq.NewSchedulerFromRedisClient(redis, &asynq.SchedulerOpts{
		HeartbeatInterval: *heartbeat,
		Location:          zone,
		LogLevel:          asynq.WarnLevel,
		PostEnqueueFunc: func(info *asynq.TaskInfo, err error) {
			event := map[string]any{"event": "enqueued", "task": plain.Encode(info)}
			if err != nil {
				event["error"] = map[string]any{"name": plain.ErrorName(err), "text": err.Error()}
			}
			lines.Write(event)
		},
	})
	if err := scheduler.Start(); err != nil {
		lines.Fatal(err)
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		lines.Each(func(l line) { lines.Answer(obey(scheduler, l)) })
		end <- syscall.SIGTERM
	}()
	lines.Write(map[string]any{"event": "ready"})
	<-end
	scheduler.Shutdown()
	lines.Write(map[string]any{"event": "stopped"})
}

func obey(scheduler *asynq.Scheduler, l line) (any, error) {
	switch {
	case l.Register != nil:
		return scheduler.Register(l.Register.Spec, l.Register.Task(), l.Register.List()...)
	case l.Unregister != "":
		return nil, scheduler.Unregister(l.Unregister)
	}
	return nil, errors.New(`a line is {"register": …} or {"unregister": …}`)
}

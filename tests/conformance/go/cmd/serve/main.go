// Command serve is an asynq Server whose handlers do what the task's type says; what happens goes to stdout.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hibiken/asynq"
	goredis "github.com/redis/go-redis/v9"

	"aioasynq/conformance/internal/connect"
	"aioasynq/conformance/internal/lines"
)

func main() {
	url := flag.String("redis", "redis://127.0.0.1:6379/0", "URL of the Redis to use")
	config := asynq.Config{
		Queues:    map[string]int{},
		IsFailure: isFailure,
		LogLevel:  asynq.WarnLevel,
	}
	flag.Func("queues", "queues and their priorities: critical=6,default=3 (default default=1)", func(text string) error {
		return readQueues(text, config.Queues)
	})
	flag.BoolVar(&config.StrictPriority, "strict", false, "take from the queue with the highest priority first")
	flag.IntVar(&config.Concurrency, "concurrency", 10, "tasks that run at once")
	flag.DurationVar(&config.TaskCheckInterval, "check-interval", 20*time.Millisecond, "pause when all queues are empty")
	flag.DurationVar(&config.DelayedTaskCheckInterval, "delayed-check-interval", time.Second,
		"pause between looks for due tasks")
	flag.DurationVar(&config.JanitorInterval, "janitor-interval", time.Second, "pause between looks for expired tasks")
	flag.DurationVar(&config.ShutdownTimeout, "shutdown-timeout", 8*time.Second, "what running tasks get at the end")
	flag.DurationVar(&config.GroupGracePeriod, "group-grace-period", time.Second, "quiet time that ripens a group")
	flag.DurationVar(&config.GroupMaxDelay, "group-max-delay", 0, "age that ripens a group; 0 for none")
	flag.IntVar(&config.GroupMaxSize, "group-max-size", 0, "size that ripens a group; 0 for none")
	aggregate := flag.String("aggregate", "", "aggregate groups into tasks of this type, payloads joined by newlines")
	hang := flag.Bool("hang", false, "let every task hang, whatever its type, until the program is killed")
	flag.Func("retry-delay", "delay of every retry (default: asynq's own rule)", func(text string) error {
		delay, err := time.ParseDuration(text)
		config.RetryDelayFunc = func(int, error, *asynq.Task) time.Duration { return delay }
		return err
	})
	flag.Var(&config.LogLevel, "log-level", "what asynq logs on stderr")
	flag.Parse()
	if *aggregate != "" {
		config.GroupAggregator = aggregator(*aggregate)
	}

	name := fmt.Sprintf("serve-%d", os.Getpid())
	redis, err := connect.Redis(*url, name)
	if err != nil {
		lines.Fatal(err)
	}
	heard := &witness{beat: make(chan struct{})}
	redis.AddHook(heard)

	released := &releases{waiting: map[string]chan outcome{}}
	var handler asynq.Handler = mux(released, redis)
	if *hang {
		handler = steered(hangs)
	}
	server := asynq.NewServerFromRedisClient(redis, config)
	if err := server.Start(handler); err != nil {
		lines.Fatal(err)
	}

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGTSTP)
	go func() { // whoever started this program has gone, or wants it to end
		lines.Each(released.add)
		signals <- syscall.SIGTERM
	}()
	go announce(redis, name, heard)

	for got := range signals {
		if got == syscall.SIGTSTP {
			server.Stop()
			lines.Write(map[string]any{"event": "quiet"})
			continue
		}
		server.Shutdown()
		redis.Close()
		lines.Write(map[string]any{"event": "stopped"})
		return
	}
}

func readQueues(text string, queues map[string]int) error {
	for _, item := range strings.Split(text, ",") {
		name, weight, _ := strings.Cut(item, "=")
		priority := 1
		if weight != "" {
			var err error
			if priority, err = strconv.Atoi(weight); err != nil {
				return err
			}
		}
		queues[name] = priority
	}
	return nil
}

// announce reports "ready" once the server has written its state and hears cancelations. asynq does not say when it has
// subscribed, so Redis is asked for a connection of ours that has.
func announce(redis goredis.UniversalClient, name string, heard *witness) {
	<-heard.beat
	for !subscribed(redis, name) {
		time.Sleep(5 * time.Millisecond)
	}
	host, _ := os.Hostname()
	lines.Write(map[string]any{"event": "ready", "host": host, "pid": os.Getpid()})
}

func subscribed(redis goredis.UniversalClient, name string) bool {
	found := make(chan bool, 1)
	look := func(ctx context.Context, node *goredis.Client) error {
		list, err := node.ClientList(ctx).Result()
		for _, client := range strings.Split(list, "\n") {
			if strings.Contains(client, " name="+name+" ") && strings.Contains(client, " sub=1 ") {
				select {
				case found <- true:
				default:
				}
			}
		}
		return err
	}
	switch node := redis.(type) {
	case *goredis.Client:
		_ = look(context.Background(), node)
	case *goredis.ClusterClient:
		_ = node.ForEachShard(context.Background(), look)
	}
	return len(found) > 0
}

// aggregator joins a group into one task of the given type.
func aggregator(typename string) asynq.GroupAggregator {
	return asynq.GroupAggregatorFunc(func(group string, tasks []*asynq.Task) *asynq.Task {
		payloads := make([]string, len(tasks))
		types := make([]string, len(tasks))
		for i, task := range tasks {
			payloads[i], types[i] = string(task.Payload()), task.Type()
		}
		lines.Write(map[string]any{"event": "aggregated", "group": group, "types": types, "payloads": payloads})
		return asynq.NewTask(typename, []byte(strings.Join(payloads, "\n")))
	})
}

// Command go_2020 is asynq v0.1.0, of January 2020: it fills a Redis with tasks in all states, as its own client and
// server put them there, says so in one line, and is to be killed then, with tasks in progress. It ends when its stdin
// does.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/go-redis/redis/v7"
	"github.com/hibiken/asynq"
)

func main() {
	url := flag.String("redis", "redis://127.0.0.1:6379/0", "URL of the Redis to fill")
	flag.Parse()
	options, err := redis.ParseURL(*url)
	if err != nil {
		fatal(err)
	}
	client := asynq.NewClient(redis.NewClient(options))
	add := func(kind string, number int, at time.Time, opts ...asynq.Option) {
		payload := map[string]interface{}{"number": number, "large": int64(9007199254740993), "text": "<a> & ü"}
		if err := client.Schedule(&asynq.Task{Type: kind, Payload: payload}, at, opts...); err != nil {
			fatal(err)
		}
	}
	now := time.Now()
	add("ok:done", 0, now)
	add("ok:dies", 1, now, asynq.MaxRetry(0))
	add("ok:fails", 2, now, asynq.MaxRetry(3))
	add("ok:blocks", 3, now)
	// One worker takes them in this order, so all that is enqueued from here on stays behind the one that blocks.
	blocked := make(chan struct{})
	server := asynq.NewBackground(redis.NewClient(options), &asynq.Config{Concurrency: 1})
	go server.Run(asynq.HandlerFunc(func(task *asynq.Task) error {
		switch task.Type {
		case "ok:done":
			return nil
		case "ok:blocks":
			close(blocked)
			select {}
		}
		return errors.New("boom: " + task.Type)
	}))
	<-blocked
	// It takes one more from Redis and holds it until its worker is free.
	for number := 4; number < 10; number++ {
		add("ok:waits", number, now)
	}
	add("ok:later", 10, now.Add(time.Hour))
	if err := client.Schedule(&asynq.Task{Type: "ok:nothing"}, now.Add(2*time.Hour)); err != nil {
		fatal(err)
	}
	fmt.Println(`{"event": "filled"}`)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

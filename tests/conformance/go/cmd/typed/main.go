// Command typed is an asynq Server and Client that knows the arguments of a typed task as a struct of its own: what it
// reads from a task of type typed:go, it writes into one of type typed:python.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"time"

	"github.com/hibiken/asynq"

	"aioasynq/conformance/internal/connect"
	"aioasynq/conformance/internal/lines"
)

type address struct {
	City     string `json:"city"`
	ZipCodes []int  `json:"zip_codes"`
}

type user struct {
	Name string  `json:"name"`
	Born *string `json:"born"`
}

type arguments struct {
	ID     int64          `json:"id"`
	Name   string         `json:"name"`
	Ratio  float64        `json:"ratio"`
	Active bool           `json:"active"`
	Note   *string        `json:"note"`
	At     time.Time      `json:"at"`
	Day    string         `json:"day"`
	Wait   string         `json:"wait"`
	Price  string         `json:"price"`
	Key    string         `json:"key"`
	Color  string         `json:"color"`
	Mode   string         `json:"mode"`
	Data   []byte         `json:"data"`
	Tags   []string       `json:"tags"`
	Counts map[string]int `json:"counts"`
	Home   address        `json:"home"`
	Point  [2]float64     `json:"point"`
	User   user           `json:"user"`
}

func main() {
	url := flag.String("redis", "redis://127.0.0.1:6379/0", "URL of the Redis to use")
	queue := flag.String("queue", "default", "the queue to serve")
	back := flag.String("back", "default", "the queue of what is sent back")
	flag.Parse()

	redis, err := connect.Redis(*url, "")
	if err != nil {
		lines.Fatal(err)
	}
	defer redis.Close()
	client := asynq.NewClientFromRedisClient(redis)
	mux := asynq.NewServeMux()
	mux.HandleFunc("typed:go", func(ctx context.Context, task *asynq.Task) error {
		var read arguments
		decoder := json.NewDecoder(bytes.NewReader(task.Payload()))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&read); err != nil {
			return fmt.Errorf("payload: %w: %w", err, asynq.SkipRetry)
		}
		written, err := json.Marshal(read)
		if err != nil {
			return err
		}
		_, err = client.EnqueueContext(ctx, asynq.NewTask("typed:python", written), asynq.Queue(*back), asynq.TaskID("back"))
		return err
	})
	server := asynq.NewServerFromRedisClient(redis, asynq.Config{
		Queues:            map[string]int{*queue: 1},
		LogLevel:          asynq.WarnLevel,
		TaskCheckInterval: 20 * time.Millisecond,
		ShutdownTimeout:   time.Second,
	})
	if err := server.Start(mux); err != nil {
		lines.Fatal(err)
	}
	lines.Write(map[string]any{"event": "ready"})
	lines.Each(func(map[string]any) {})
	server.Shutdown()
}

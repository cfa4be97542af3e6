// Command enqueue is an asynq client: a task a line on stdin, what came of it on stdout.
package main

import (
	"flag"

	"github.com/hibiken/asynq"

	"aioasynq/conformance/internal/connect"
	"aioasynq/conformance/internal/lines"
	"aioasynq/conformance/internal/request"
)

func main() {
	url := flag.String("redis", "redis://127.0.0.1:6379/0", "URL of the Redis to use")
	flag.Parse()

	redis, err := connect.Redis(*url, "")
	if err != nil {
		lines.Fatal(err)
	}
	defer redis.Close()
	client := asynq.NewClientFromRedisClient(redis)

	lines.Each(func(line request.Enqueue) {
		lines.Answer(client.Enqueue(line.Task(), line.List()...))
	})
}

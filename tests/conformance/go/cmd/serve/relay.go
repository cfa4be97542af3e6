package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/hibiken/asynq"
	"github.com/hibiken/asynq/x/rate"
	goredis "github.com/redis/go-redis/v9"

	"aioasynq/conformance/internal/lines"
)

// opened hands an open client to what would open one itself.
type opened struct{ redis goredis.UniversalClient }

// MakeRedisClient is called once.
func (o opened) MakeRedisClient() any { return o.redis }

// relays is relay:<type>: it enqueues a task of that type with the same payload to the queue that the header "to"
// names, and passes the trace on as any program does that does not take part in it.
func relays(redis goredis.UniversalClient) handle {
	client := asynq.NewClientFromRedisClient(redis)
	return func(ctx context.Context, task *asynq.Task, argument string) error {
		headers := map[string]string{}
		for name, value := range task.Headers() {
			if name == "traceparent" || name == "tracestate" {
				headers[name] = value
			}
		}
		next := asynq.NewTaskWithHeaders(argument, task.Payload(), headers, asynq.Queue(task.Headers()["to"]))
		_, err := client.EnqueueContext(ctx, next)
		return err
	}
}

// shares is token:<scope>: it takes a token of x/rate's semaphore of as many tokens as the payload says, reports whether
// it got one, and holds it until it is released; without one it ends softly.
func shares(redis goredis.UniversalClient, released *releases) handle {
	return func(ctx context.Context, task *asynq.Task, scope string) error {
		var tokens int
		if err := json.Unmarshal(task.Payload(), &tokens); err != nil {
			return err
		}
		id, _ := asynq.GetTaskID(ctx)
		semaphore := rate.NewSemaphore(opened{redis}, scope, tokens)
		got, err := semaphore.Acquire(ctx)
		lines.Write(map[string]any{"event": "token", "id": id, "got": got, "error": text(err)})
		if err != nil || !got {
			return errSoft
		}
		if err := end(<-released.of(id), task); err != nil {
			return err
		}
		err = semaphore.Release(ctx)
		lines.Write(map[string]any{"event": "given_back", "id": id, "error": text(err)})
		return err
	}
}

// refuses is refuse:<scope>: what the constructor of x/rate's semaphore says when it panics.
func refuses(redis goredis.UniversalClient) handle {
	return func(ctx context.Context, task *asynq.Task, scope string) (err error) {
		id, _ := asynq.GetTaskID(ctx)
		defer func() {
			lines.Write(map[string]any{"event": "refused", "id": id, "error": strings.TrimSpace(fmt.Sprint(recover()))})
		}()
		var tokens int
		if err := json.Unmarshal(task.Payload(), &tokens); err != nil {
			return err
		}
		rate.NewSemaphore(opened{redis}, scope, tokens)
		return nil
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

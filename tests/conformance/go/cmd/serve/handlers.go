package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	goredis "github.com/redis/go-redis/v9"

	"aioasynq/conformance/internal/lines"
	"aioasynq/conformance/internal/plain"
)

// errSoft is a failure that does not count as one.
var errSoft = errors.New("soft")

func isFailure(err error) bool { return !errors.Is(err, errSoft) }

// outcome is how a blocked handler is told to end.
type outcome struct {
	Release string `json:"release"` // id of the task
	Outcome string `json:"outcome"` // ok (also when empty), fail, soft, skip, revoke, panic
	Text    string `json:"text"`    // of the error, "boom" when empty
	Result  []byte `json:"result"`  // written before the end, unless nil
}

// releases brings outcomes from stdin to the handlers that wait for them; either may come first.
type releases struct {
	mu      sync.Mutex
	waiting map[string]chan outcome
}

func (r *releases) of(id string) chan outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting[id] == nil {
		r.waiting[id] = make(chan outcome, 16)
	}
	return r.waiting[id]
}

func (r *releases) add(o outcome) { r.of(o.Release) <- o }

// handle is what a task's type asks for. argument is what stands after the colon of the type.
type handle func(ctx context.Context, task *asynq.Task, argument string) error

// mux holds the handlers by the word a task's type begins with. Any other type has no handler, as in any asynq server.
func mux(released *releases, redis goredis.UniversalClient) *asynq.ServeMux {
	out := asynq.NewServeMux()
	for word, h := range map[string]handle{
		"ok":   func(context.Context, *asynq.Task, string) error { return nil },
		"fail": fails,
		"soft": func(_ context.Context, task *asynq.Task, _ string) error { return end(outcome{Outcome: "soft"}, task) },
		"skip": func(_ context.Context, task *asynq.Task, _ string) error { return end(outcome{Outcome: "skip"}, task) },
		"revoke": func(_ context.Context, task *asynq.Task, _ string) error {
			return end(outcome{Outcome: "revoke"}, task)
		},
		"panic":    func(_ context.Context, task *asynq.Task, _ string) error { return end(outcome{Outcome: "panic"}, task) },
		"result":   func(_ context.Context, task *asynq.Task, _ string) error { return write(task, task.Payload()) },
		"sleep":    sleeps,
		"block":    blocks(released),
		"stubborn": stubborn(released),
		"relay":    relays(redis),
		"token":    shares(redis, released),
		"refuse":   refuses(redis),
	} {
		out.Handle(word, steered(h))
	}
	return out
}

// steered reports the start and the end of h.
func steered(h handle) asynq.HandlerFunc {
	return func(ctx context.Context, task *asynq.Task) error {
		id, _ := asynq.GetTaskID(ctx)
		queue, _ := asynq.GetQueueName(ctx)
		retried, _ := asynq.GetRetryCount(ctx)
		maxRetry, _ := asynq.GetMaxRetry(ctx)
		deadline, _ := ctx.Deadline()
		lines.Write(map[string]any{
			"event": "started", "id": id, "queue": queue, "type": task.Type(), "at": plain.Moment(time.Now()),
			"payload": plain.Encode(task.Payload()), "headers": plain.Encode(task.Headers()),
			"retried": retried, "max_retry": maxRetry, "deadline": plain.Moment(deadline),
		})
		var once sync.Once
		cancelled := func() {
			once.Do(func() {
				lines.Write(map[string]any{"event": "cancelled", "id": id, "cause": ctx.Err().Error()})
			})
		}
		ended := make(chan struct{})
		defer close(ended)
		defer func() { // the handler may be quicker to end than the watch below is to look
			if ctx.Err() != nil {
				cancelled()
			}
		}()
		go func() { // asynq acts on this by itself, whatever the handler does
			select {
			case <-ctx.Done():
				select {
				case <-ended: // asynq ends the context of a task that is over, too
				default:
					cancelled()
				}
			case <-ended:
			}
		}()
		defer func() {
			if cause := recover(); cause != nil {
				lines.Write(map[string]any{"event": "panicked", "id": id, "error": fmt.Sprint(cause)})
				panic(cause)
			}
		}()
		_, argument, _ := strings.Cut(task.Type(), ":")
		err := h(ctx, task, argument)
		if err != nil {
			lines.Write(map[string]any{"event": "failed", "id": id, "error": err.Error()})
		} else {
			lines.Write(map[string]any{"event": "finished", "id": id})
		}
		return err
	}
}

// end ends a handler in the way o says.
func end(o outcome, task *asynq.Task) error {
	if o.Result != nil {
		if err := write(task, o.Result); err != nil {
			return err
		}
	}
	text := o.Text
	if text == "" {
		text = "boom"
	}
	switch o.Outcome {
	case "", "ok":
		return nil
	case "fail":
		return errors.New(text)
	case "soft":
		return errSoft
	case "skip":
		return fmt.Errorf("%s: %w", text, asynq.SkipRetry)
	case "revoke":
		return fmt.Errorf("%s: %w", text, asynq.RevokeTask)
	case "panic":
		panic(text)
	default:
		return fmt.Errorf("unknown outcome %q", o.Outcome)
	}
}

func write(task *asynq.Task, result []byte) error {
	_, err := task.ResultWriter().Write(result)
	return err
}

// fails fails with the payload as its error text; fail:2 only the first two times.
func fails(ctx context.Context, task *asynq.Task, argument string) error {
	retried, _ := asynq.GetRetryCount(ctx)
	if times, err := strconv.Atoi(argument); err == nil && retried >= times {
		return nil
	}
	return end(outcome{Outcome: "fail", Text: string(task.Payload())}, task)
}

// sleeps is sleep:<milliseconds>, cut short by a cancelation.
func sleeps(ctx context.Context, _ *asynq.Task, argument string) error {
	ms, err := strconv.Atoi(argument)
	if err != nil {
		return err
	}
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// blocks waits until it is released or cancelled.
func blocks(released *releases) handle {
	return func(ctx context.Context, task *asynq.Task, _ string) error {
		id, _ := asynq.GetTaskID(ctx)
		select {
		case o := <-released.of(id):
			return end(o, task)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stubborn waits until it is released, and does not care about a cancelation.
func stubborn(released *releases) handle {
	return func(ctx context.Context, task *asynq.Task, _ string) error {
		id, _ := asynq.GetTaskID(ctx)
		return end(<-released.of(id), task)
	}
}

// hangs never ends.
func hangs(context.Context, *asynq.Task, string) error {
	select {}
}

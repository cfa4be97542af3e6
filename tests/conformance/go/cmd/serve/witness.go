package main

import (
	"context"
	"fmt"
	"strings"
	"sync"

	goredis "github.com/redis/go-redis/v9"

	"aioasynq/conformance/internal/lines"
)

// witness watches the scripts that asynq runs and reports those that moved a task. A handler's end says nothing about
// Redis: asynq writes the outcome afterwards, and only its scripts show when.
type witness struct {
	first sync.Once
	beat  chan struct{} // closed at the first heartbeat
}

// DialHook leaves connecting alone.
func (w *witness) DialHook(next goredis.DialHook) goredis.DialHook { return next }

// ProcessPipelineHook leaves pipelines alone: asynq's server has none.
func (w *witness) ProcessPipelineHook(next goredis.ProcessPipelineHook) goredis.ProcessPipelineHook {
	return next
}

// ProcessHook looks at each command after its answer has come.
func (w *witness) ProcessHook(next goredis.ProcessHook) goredis.ProcessHook {
	return func(ctx context.Context, cmd goredis.Cmder) error {
		err := next(ctx, cmd)
		if name := cmd.Name(); (name == "evalsha" || name == "eval") && !goredis.HasErrorPrefix(err, "NOSCRIPT") {
			w.script(cmd, err)
		}
		return err
	}
}

// keys are the keys of a script by what they are: their last part, or "task" and "server".
func keys(cmd goredis.Cmder) map[string]string {
	args := cmd.Args() // evalsha, sha, number of keys, keys…
	count, ok := args[2].(int)
	if !ok {
		return nil
	}
	out := map[string]string{}
	for _, arg := range args[3 : 3+count] {
		key := fmt.Sprint(arg)
		if strings.HasPrefix(key, "asynq:servers:") {
			out["server"] = key
			continue
		}
		_, rest, _ := strings.Cut(key, "}:")
		if id, isTask := strings.CutPrefix(rest, "t:"); isTask {
			if id != "" { // else it is a prefix that the script completes
				out["task"] = id
			}
		} else {
			out[rest] = key
		}
	}
	return out
}

func (w *witness) script(cmd goredis.Cmder, err error) {
	on := keys(cmd)
	has := func(name string) bool { return on[name] != "" }
	event := map[string]any{}
	switch {
	case has("server"):
		if err == nil {
			w.first.Do(func() { close(w.beat) })
		}
		return
	case has("lease") && has("task"):
		as := "done"
		for key, name := range map[string]string{
			"pending": "pending", "retry": "retry", "archived": "archived", "completed": "completed",
		} {
			if has(key) {
				as = name
			}
		}
		event["event"], event["id"], event["as"] = "settled", on["task"], as
	case has("pending") && (has("scheduled") || has("retry")) && len(on) == 2:
		if count := number(cmd); count > 0 || err != nil {
			event["event"], event["count"] = "forwarded", count
		}
	case has("completed") && len(on) == 1:
		if count := number(cmd); count > 0 || err != nil {
			event["event"], event["count"] = "expired", count
		}
	}
	if len(event) == 0 {
		return
	}
	if queue, found := queueOf(on); found {
		event["queue"] = queue
	}
	if err != nil {
		event["error"] = err.Error()
	}
	lines.Write(event)
}

func queueOf(on map[string]string) (string, bool) {
	for name, key := range on {
		if name != "task" {
			queue := strings.TrimPrefix(key, "asynq:{")
			return strings.TrimSuffix(queue, "}:"+name), true
		}
	}
	return "", false
}

func number(cmd goredis.Cmder) int64 {
	if answer, ok := cmd.(*goredis.Cmd); ok {
		count, _ := answer.Int64()
		return count
	}
	return 0
}

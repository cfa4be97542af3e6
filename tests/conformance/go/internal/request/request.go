// Package request reads a task and its options from JSON.
package request

import (
	"time"

	"github.com/hibiken/asynq"

	"aioasynq/conformance/internal/plain"
)

// Enqueue is a task with the options of its own and those of the call. An option that is absent or null is not given
// to asynq at all.
type Enqueue struct {
	Type     string            `json:"type"`
	Payload  []byte            `json:"payload"`
	Headers  map[string]string `json:"headers"`
	Defaults Options           `json:"defaults"`
	Options
}

// Options are the enqueue options; durations are seconds, moments unix seconds.
type Options struct {
	Queue     *string        `json:"queue"`
	TaskID    *string        `json:"task_id"`
	MaxRetry  *int           `json:"max_retry"`
	Timeout   *plain.Seconds `json:"timeout"`
	Deadline  *plain.Time    `json:"deadline"`
	Unique    *plain.Seconds `json:"unique"`
	ProcessAt *plain.Time    `json:"process_at"`
	ProcessIn *plain.Seconds `json:"process_in"`
	Retention *plain.Seconds `json:"retention"`
	Group     *string        `json:"group"`
}

// Task makes asynq's task, with the options of its own.
func (e Enqueue) Task() *asynq.Task {
	if e.Headers == nil {
		return asynq.NewTask(e.Type, e.Payload, e.Defaults.List()...)
	}
	return asynq.NewTaskWithHeaders(e.Type, e.Payload, e.Headers, e.Defaults.List()...)
}

// List makes asynq's options, in the order of the fields.
func (o Options) List() []asynq.Option {
	var out []asynq.Option
	if o.Queue != nil {
		out = append(out, asynq.Queue(*o.Queue))
	}
	if o.TaskID != nil {
		out = append(out, asynq.TaskID(*o.TaskID))
	}
	if o.MaxRetry != nil {
		out = append(out, asynq.MaxRetry(*o.MaxRetry))
	}
	if o.Timeout != nil {
		out = append(out, asynq.Timeout(time.Duration(*o.Timeout)))
	}
	if o.Deadline != nil {
		out = append(out, asynq.Deadline(o.Deadline.Time))
	}
	if o.Unique != nil {
		out = append(out, asynq.Unique(time.Duration(*o.Unique)))
	}
	if o.ProcessAt != nil {
		out = append(out, asynq.ProcessAt(o.ProcessAt.Time))
	}
	if o.ProcessIn != nil {
		out = append(out, asynq.ProcessIn(time.Duration(*o.ProcessIn)))
	}
	if o.Retention != nil {
		out = append(out, asynq.Retention(time.Duration(*o.Retention)))
	}
	if o.Group != nil {
		out = append(out, asynq.Group(*o.Group))
	}
	return out
}

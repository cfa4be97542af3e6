// Command inspect is an asynq Inspector: a call a line on stdin, its answer on stdout.
package main

import (
	"errors"
	"flag"
	"fmt"

	"github.com/hibiken/asynq"

	"aioasynq/conformance/internal/connect"
	"aioasynq/conformance/internal/lines"
)

type request struct {
	Call    string `json:"call"`
	Queue   string `json:"queue"`
	ID      string `json:"id"`
	Group   string `json:"group"`
	Page    *int   `json:"page"`
	Size    *int   `json:"size"`
	Days    int    `json:"days"`
	Force   bool   `json:"force"`
	Payload []byte `json:"payload"`
	Entry   string `json:"entry"`
}

// paging gives the list options that were asked for, and no others.
func (r request) paging() []asynq.ListOption {
	var out []asynq.ListOption
	if r.Page != nil {
		out = append(out, asynq.Page(*r.Page))
	}
	if r.Size != nil {
		out = append(out, asynq.PageSize(*r.Size))
	}
	return out
}

type call func(i *asynq.Inspector, r request) (any, error)

// answer hides the type of a result.
func answer[T any](value T, err error) (any, error) { return value, err }

// done is the answer of what only may fail.
func done(err error) (any, error) { return nil, err }

var calls = map[string]call{
	"queues":         func(i *asynq.Inspector, _ request) (any, error) { return answer(i.Queues()) },
	"groups":         func(i *asynq.Inspector, r request) (any, error) { return answer(i.Groups(r.Queue)) },
	"get_queue_info": func(i *asynq.Inspector, r request) (any, error) { return answer(i.GetQueueInfo(r.Queue)) },
	"history":        func(i *asynq.Inspector, r request) (any, error) { return answer(i.History(r.Queue, r.Days)) },
	"pause_queue":    func(i *asynq.Inspector, r request) (any, error) { return done(i.PauseQueue(r.Queue)) },
	"unpause_queue":  func(i *asynq.Inspector, r request) (any, error) { return done(i.UnpauseQueue(r.Queue)) },
	"delete_queue":   func(i *asynq.Inspector, r request) (any, error) { return done(i.DeleteQueue(r.Queue, r.Force)) },

	"get_task_info": func(i *asynq.Inspector, r request) (any, error) { return answer(i.GetTaskInfo(r.Queue, r.ID)) },
	"run_task":      func(i *asynq.Inspector, r request) (any, error) { return done(i.RunTask(r.Queue, r.ID)) },
	"archive_task":  func(i *asynq.Inspector, r request) (any, error) { return done(i.ArchiveTask(r.Queue, r.ID)) },
	"delete_task":   func(i *asynq.Inspector, r request) (any, error) { return done(i.DeleteTask(r.Queue, r.ID)) },
	"update_task_payload": func(i *asynq.Inspector, r request) (any, error) {
		return done(i.UpdateTaskPayload(r.Queue, r.ID, r.Payload))
	},
	"cancel_processing": func(i *asynq.Inspector, r request) (any, error) { return done(i.CancelProcessing(r.ID)) },

	"list_pending_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.ListPendingTasks(r.Queue, r.paging()...))
	},
	"list_active_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.ListActiveTasks(r.Queue, r.paging()...))
	},
	"list_scheduled_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.ListScheduledTasks(r.Queue, r.paging()...))
	},
	"list_retry_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.ListRetryTasks(r.Queue, r.paging()...))
	},
	"list_archived_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.ListArchivedTasks(r.Queue, r.paging()...))
	},
	"list_completed_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.ListCompletedTasks(r.Queue, r.paging()...))
	},
	"list_aggregating_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.ListAggregatingTasks(r.Queue, r.Group, r.paging()...))
	},

	"run_all_scheduled_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.RunAllScheduledTasks(r.Queue))
	},
	"run_all_retry_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.RunAllRetryTasks(r.Queue))
	},
	"run_all_archived_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.RunAllArchivedTasks(r.Queue))
	},
	"run_all_aggregating_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.RunAllAggregatingTasks(r.Queue, r.Group))
	},
	"archive_all_pending_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.ArchiveAllPendingTasks(r.Queue))
	},
	"archive_all_scheduled_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.ArchiveAllScheduledTasks(r.Queue))
	},
	"archive_all_retry_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.ArchiveAllRetryTasks(r.Queue))
	},
	"archive_all_aggregating_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.ArchiveAllAggregatingTasks(r.Queue, r.Group))
	},
	"delete_all_pending_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.DeleteAllPendingTasks(r.Queue))
	},
	"delete_all_scheduled_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.DeleteAllScheduledTasks(r.Queue))
	},
	"delete_all_retry_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.DeleteAllRetryTasks(r.Queue))
	},
	"delete_all_archived_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.DeleteAllArchivedTasks(r.Queue))
	},
	"delete_all_completed_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.DeleteAllCompletedTasks(r.Queue))
	},
	"delete_all_aggregating_tasks": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.DeleteAllAggregatingTasks(r.Queue, r.Group))
	},

	"servers":           func(i *asynq.Inspector, _ request) (any, error) { return answer(i.Servers()) },
	"scheduler_entries": func(i *asynq.Inspector, _ request) (any, error) { return answer(i.SchedulerEntries()) },
	"list_scheduler_enqueue_events": func(i *asynq.Inspector, r request) (any, error) {
		return answer(i.ListSchedulerEnqueueEvents(r.Entry, r.paging()...))
	},
	"cluster_key_slot": func(i *asynq.Inspector, r request) (any, error) { return answer(i.ClusterKeySlot(r.Queue)) },
	"cluster_nodes":    func(i *asynq.Inspector, r request) (any, error) { return answer(i.ClusterNodes(r.Queue)) },
}

// ask makes one call. asynq's own panics become errors, so that a test sees what it provoked.
func ask(i *asynq.Inspector, r request) (value any, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v", cause)
		}
	}()
	made, ok := calls[r.Call]
	if !ok {
		return nil, errors.New("inspect has no call " + r.Call)
	}
	return made(i, r)
}

func main() {
	url := flag.String("redis", "redis://127.0.0.1:6379/0", "URL of the Redis to use")
	flag.Parse()

	redis, err := connect.Redis(*url, "")
	if err != nil {
		lines.Fatal(err)
	}
	defer redis.Close()
	inspector := asynq.NewInspectorFromRedisClient(redis)
	lines.Each(func(r request) { lines.Answer(ask(inspector, r)) })
}

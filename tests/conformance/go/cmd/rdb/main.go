// Command rdb plays steps against asynq's own Redis operations: a step a line on stdin, its answer on stdout.
//
// asynq keeps these operations in an internal package, which no other module may import. They are reached here
// through the RDB that an Inspector holds, by reflection: its methods and the types of their arguments are
// public, only the field that holds it is not. So what runs is asynq itself, unchanged and not copied.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unsafe"

	"github.com/hibiken/asynq"

	"aioasynq/conformance/internal/connect"
	"aioasynq/conformance/internal/lines"
	"aioasynq/conformance/internal/plain"
)

// operation is a method of asynq's RDB and the names its arguments have in a step, in order. A context is left out.
type operation struct {
	method    string
	arguments []string
}

func op(method string, arguments ...string) operation { return operation{method, arguments} }

// operations holds those of asynq's operations that change or read Redis, by the name they have in a step.
var operations = map[string]operation{
	"ping": op("Ping"),

	"enqueue":             op("Enqueue", "msg"),
	"enqueue_unique":      op("EnqueueUnique", "msg", "ttl"),
	"schedule":            op("Schedule", "msg", "process_at"),
	"schedule_unique":     op("ScheduleUnique", "msg", "process_at", "ttl"),
	"add_to_group":        op("AddToGroup", "msg", "group"),
	"add_to_group_unique": op("AddToGroupUnique", "msg", "group", "ttl"),

	"dequeue":          op("Dequeue", "queues"),
	"done":             op("Done", "msg"),
	"mark_as_complete": op("MarkAsComplete", "msg"),
	"requeue":          op("Requeue", "msg"),
	"retry":            op("Retry", "msg", "process_at", "error", "is_failure"),
	"kill":             op("Archive", "msg", "error"),
	"write_result":     op("WriteResult", "queue", "id", "data"),

	"check_and_enqueue":              op("ForwardIfReady", "queues"),
	"extend_lease":                   op("ExtendLease", "queue", "ids"),
	"list_lease_expired":             op("ListLeaseExpired", "cutoff", "queues"),
	"delete_expired_completed_tasks": op("DeleteExpiredCompletedTasks", "queue", "batch_size"),

	"list_groups": op("ListGroups", "queue"),
	"aggregation_check": op("AggregationCheck",
		"queue", "group", "at", "grace_period", "max_delay", "max_size"),
	"read_aggregation_set":           op("ReadAggregationSet", "queue", "group", "set_id"),
	"delete_aggregation_set":         op("DeleteAggregationSet", "queue", "group", "set_id"),
	"reclaim_stale_aggregation_sets": op("ReclaimStaleAggregationSets", "queue"),

	"write_process_info":             op("WriteServerState", "info", "workers", "ttl"),
	"clear_process_info":             op("ClearServerState", "host", "pid", "server_id"),
	"write_scheduler_entries":        op("WriteSchedulerEntries", "scheduler_id", "entries", "ttl"),
	"clear_scheduler_entries":        op("ClearSchedulerEntries", "scheduler_id"),
	"record_scheduler_enqueue_event": op("RecordSchedulerEnqueueEvent", "entry_id", "event"),
	"clear_scheduler_history":        op("ClearSchedulerHistory", "entry_id"),
	"publish_cancelation":            op("PublishCancelation", "id"),

	"all_queues":                    op("AllQueues"),
	"current_stats":                 op("CurrentStats", "queue"),
	"historical_stats":              op("HistoricalStats", "queue", "days"),
	"group_stats":                   op("GroupStats", "queue"),
	"get_task_info":                 op("GetTaskInfo", "queue", "id"),
	"list_pending":                  op("ListPending", "queue", "paging"),
	"list_active":                   op("ListActive", "queue", "paging"),
	"list_scheduled":                op("ListScheduled", "queue", "paging"),
	"list_retry":                    op("ListRetry", "queue", "paging"),
	"list_archived":                 op("ListArchived", "queue", "paging"),
	"list_completed":                op("ListCompleted", "queue", "paging"),
	"list_aggregating":              op("ListAggregating", "queue", "group", "paging"),
	"list_servers":                  op("ListServers"),
	"list_workers":                  op("ListWorkers"),
	"list_scheduler_entries":        op("ListSchedulerEntries"),
	"list_scheduler_enqueue_events": op("ListSchedulerEnqueueEvents", "entry_id", "paging"),

	"run_task":                      op("RunTask", "queue", "id"),
	"run_all_scheduled_tasks":       op("RunAllScheduledTasks", "queue"),
	"run_all_retry_tasks":           op("RunAllRetryTasks", "queue"),
	"run_all_archived_tasks":        op("RunAllArchivedTasks", "queue"),
	"run_all_aggregating_tasks":     op("RunAllAggregatingTasks", "queue", "group"),
	"archive_task":                  op("ArchiveTask", "queue", "id"),
	"archive_all_pending_tasks":     op("ArchiveAllPendingTasks", "queue"),
	"archive_all_scheduled_tasks":   op("ArchiveAllScheduledTasks", "queue"),
	"archive_all_retry_tasks":       op("ArchiveAllRetryTasks", "queue"),
	"archive_all_aggregating_tasks": op("ArchiveAllAggregatingTasks", "queue", "group"),
	"delete_task":                   op("DeleteTask", "queue", "id"),
	"delete_all_pending_tasks":      op("DeleteAllPendingTasks", "queue"),
	"delete_all_scheduled_tasks":    op("DeleteAllScheduledTasks", "queue"),
	"delete_all_retry_tasks":        op("DeleteAllRetryTasks", "queue"),
	"delete_all_archived_tasks":     op("DeleteAllArchivedTasks", "queue"),
	"delete_all_completed_tasks":    op("DeleteAllCompletedTasks", "queue"),
	"delete_all_aggregating_tasks":  op("DeleteAllAggregatingTasks", "queue", "group"),
	"update_task_payload":           op("UpdateTaskPayload", "queue", "id", "payload"),
	"remove_queue":                  op("RemoveQueue", "queue", "force"),
	"pause":                         op("Pause", "queue"),
	"unpause":                       op("Unpause", "queue"),
}

// clock is the time asynq's operations take for now: a given moment, or the real one.
type clock struct{ frozen time.Time }

// Now makes this asynq's Clock.
func (c *clock) Now() time.Time {
	if c.frozen.IsZero() {
		return time.Now()
	}
	return c.frozen
}

type player struct {
	rdb      reflect.Value // *rdb.RDB
	clock    *clock
	messages map[string]reflect.Value   // *base.TaskMessage by id, as last enqueued or dequeued
	saved    map[string]json.RawMessage // answers kept under the "save" of their step
}

func newPlayer(inspector *asynq.Inspector) *player {
	field := reflect.ValueOf(inspector).Elem().FieldByName("rdb")
	if !field.IsValid() {
		lines.Fatal(fmt.Errorf("asynq's Inspector has no field rdb any more: this program must follow"))
	}
	p := &player{
		rdb:      reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem(),
		clock:    &clock{},
		messages: map[string]reflect.Value{},
		saved:    map[string]json.RawMessage{},
	}
	p.rdb.MethodByName("SetClock").Call([]reflect.Value{reflect.ValueOf(p.clock)})
	return p
}

// play makes one step: {"op": name, …arguments, "save": name to keep the answer under}.
func (p *player) play(step lines.Object) (any, error) {
	var name, save string
	if err := take(step, "op", &name); err != nil {
		return nil, err
	}
	if err := take(step, "save", &save); err != nil {
		return nil, err
	}
	if name == "set_clock" {
		return nil, p.setClock(step)
	}
	known, ok := operations[name]
	if !ok {
		return nil, fmt.Errorf("rdb has no operation %q", name)
	}
	method := p.rdb.MethodByName(known.method)
	if !method.IsValid() {
		return nil, fmt.Errorf("asynq has no operation %s", known.method)
	}
	arguments, err := p.arguments(method.Type(), known.arguments, step)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var results []reflect.Value
	if method.Type().IsVariadic() {
		results = method.CallSlice(arguments)
	} else {
		results = method.Call(arguments)
	}
	value, err := p.result(results)
	if err == nil && save != "" {
		if p.saved[save], err = json.Marshal(value); err != nil {
			return nil, err
		}
	}
	return value, err
}

// setClock freezes the clock at "now", or lets it run when there is none.
func (p *player) setClock(step lines.Object) error {
	p.clock.frozen = time.Time{}
	var now plain.Time
	err := take(step, "now", &now)
	p.clock.frozen = now.Time
	return err
}

// arguments reads a method's arguments from step; a context is the background.
func (p *player) arguments(method reflect.Type, names []string, step lines.Object) ([]reflect.Value, error) {
	var out []reflect.Value
	for i := range method.NumIn() {
		wanted := method.In(i)
		if wanted == reflect.TypeFor[context.Context]() {
			out = append(out, reflect.ValueOf(context.Background()))
			continue
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("asynq wants an argument %d, a %s, that has no name here", i+1, wanted)
		}
		raw, given := step[names[0]]
		if !given {
			return nil, fmt.Errorf("argument %q is missing", names[0])
		}
		value, err := p.argument(raw, wanted)
		if err != nil {
			return nil, fmt.Errorf("argument %q: %w", names[0], err)
		}
		out = append(out, value)
		delete(step, names[0])
		names = names[1:]
	}
	for unknown := range step {
		return nil, fmt.Errorf("there is no argument %q", unknown)
	}
	return out, nil
}

// argument reads one argument: "$name" is a saved answer, and where a message is wanted a string is the id of one
// that an earlier step enqueued or dequeued.
func (p *player) argument(raw json.RawMessage, wanted reflect.Type) (reflect.Value, error) {
	var text string
	isMessage := wanted.Kind() == reflect.Pointer && wanted.Elem().Name() == "TaskMessage"
	if json.Unmarshal(raw, &text) == nil {
		if name, ok := strings.CutPrefix(text, "$"); ok {
			saved, known := p.saved[name]
			if !known {
				return reflect.Value{}, fmt.Errorf("nothing was saved as %q", name)
			}
			return plain.Decode(saved, wanted)
		}
		if isMessage {
			msg, known := p.messages[text]
			if !known {
				return reflect.Value{}, fmt.Errorf("no step before this had a message with the id %q", text)
			}
			return msg, nil
		}
	}
	value, err := plain.Decode(raw, wanted)
	if err == nil && isMessage {
		p.remember(value)
	}
	return value, err
}

// result gives the one answer, or a list when the method has several beside its error.
func (p *player) result(results []reflect.Value) (any, error) {
	last := len(results) - 1
	if err, failed := results[last].Interface().(error); failed {
		return nil, err
	}
	values := []any{}
	for _, value := range results[:last] {
		p.remember(value)
		values = append(values, plain.Encode(value.Interface()))
	}
	switch len(values) {
	case 0:
		return nil, nil
	case 1:
		return values[0], nil
	default:
		return values, nil
	}
}

func (p *player) remember(value reflect.Value) {
	if value.Kind() == reflect.Pointer && !value.IsNil() && value.Elem().Type().Name() == "TaskMessage" {
		p.messages[value.Elem().FieldByName("ID").String()] = value
	}
}

// take moves a member of step into target.
func take(step lines.Object, name string, target any) error {
	raw, given := step[name]
	delete(step, name)
	if !given {
		return nil
	}
	if err := json.Unmarshal(raw, target); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func main() {
	url := flag.String("redis", "redis://127.0.0.1:6379/0", "URL of the Redis to use")
	flag.Parse()

	redis, err := connect.Redis(*url, "")
	if err != nil {
		lines.Fatal(err)
	}
	defer redis.Close()
	p := newPlayer(asynq.NewInspectorFromRedisClient(redis))
	lines.Each(func(step lines.Object) { lines.Answer(p.play(step)) })
}

// Command asynq enqueues with, or works as, Go asynq, as the runner of the benchmarks says in its one argument: a Spec
// of program.py in JSON. The shared memory is laid out as in shared.py.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/hibiken/asynq"
)

const (
	nextLane  = 62
	lanes     = 64
	lane      = 8
	laneCount = 64
	tasks     = lanes + lane*laneCount
	sleep     = 5 * time.Millisecond
)

type spec struct {
	Role        string  `json:"role"`
	Redis       string  `json:"redis"`
	Shared      string  `json:"shared"`
	Tasks       int     `json:"tasks"`
	Gate        int     `json:"gate"`
	How         string  `json:"how"`
	First       int     `json:"first"`
	Count       int     `json:"count"`
	Warm        int     `json:"warm"`
	Callers     int     `json:"callers"`
	Limit       float64 `json:"limit"`
	Lead        float64 `json:"lead"`
	Pause       float64 `json:"pause"`
	Queues      int     `json:"queues"`
	Concurrency int     `json:"concurrency"`
	Handler     string  `json:"handler"`
	Served      int     `json:"served"`
}

var words []int64

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func waitAtGate(gate int) {
	atomic.AddInt64(&words[2*gate], 1)
	for atomic.LoadInt64(&words[2*gate+1]) == 0 {
		time.Sleep(time.Millisecond)
	}
}

func cpu() float64 {
	var used syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
}

func main() {
	s := spec{Queues: 1, Served: 1, Callers: 100, Limit: 1e9, Concurrency: 100}
	check(json.Unmarshal([]byte(os.Args[1]), &s))
	file, err := os.OpenFile(s.Shared, os.O_RDWR, 0)
	check(err)
	size := 8 * (tasks + 2*s.Tasks)
	memory, err := syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	check(err)
	words = unsafe.Slice((*int64)(unsafe.Pointer(&memory[0])), size/8)
	redis, err := asynq.ParseRedisURI(s.Redis)
	check(err)
	if s.Role == "work" {
		work(s, redis)
		return
	}
	enqueue(s, redis)
}

func work(s spec, redis asynq.RedisConnOpt) {
	waitAtGate(s.Gate)
	began := words[tasks+s.Tasks:]
	counter := &words[lanes+lane*(int(atomic.AddInt64(&words[nextLane], 1)-1)%laneCount)]
	queues := map[string]int{"default": 1}
	if s.Served > 1 {
		queues = map[string]int{}
		for i := range s.Served {
			queues[fmt.Sprintf("q%d", i)] = 1
		}
	}
	server := asynq.NewServer(redis, asynq.Config{
		Concurrency:              s.Concurrency,
		Queues:                   queues,
		LogLevel:                 asynq.ErrorLevel,
		DelayedTaskCheckInterval: time.Second, // the default is five
	})
	sleeps := s.Handler == "sleep"
	mux := asynq.NewServeMux()
	mux.HandleFunc("bench", func(_ context.Context, task *asynq.Task) error {
		number, err := strconv.Atoi(string(task.Payload()))
		if err != nil {
			return err
		}
		began[number] = time.Now().UnixNano()
		atomic.AddInt64(counter, 1)
		if sleeps {
			time.Sleep(sleep)
		}
		return nil
	})
	check(server.Run(mux))
}

func enqueue(s spec, redis asynq.RedisConnOpt) {
	client := asynq.NewClient(redis)
	defer client.Close()
	var due time.Time
	put := func(number int) {
		options := []asynq.Option{}
		if !due.IsZero() {
			options = append(options, asynq.ProcessAt(due))
		}
		if s.Queues > 1 {
			options = append(options, asynq.Queue(fmt.Sprintf("q%d", number%s.Queues)))
		}
		_, err := client.Enqueue(asynq.NewTask("bench", strconv.AppendInt(nil, int64(number), 10)), options...)
		check(err)
	}
	var next, done atomic.Int64
	many := func(first, count, callers int, end time.Time) {
		next.Store(int64(first))
		var all sync.WaitGroup
		for range callers {
			all.Add(1)
			go func() {
				defer all.Done()
				for {
					number := int(next.Add(1)) - 1
					if number >= first+count || time.Now().After(end) {
						return
					}
					put(number)
					done.Add(1)
				}
			}()
		}
		all.Wait()
	}
	many(s.First+s.Count, s.Warm, 10, time.Now().Add(time.Hour))
	waitAtGate(s.Gate)
	done.Store(0)
	begin, used := time.Now(), cpu()
	end := begin.Add(time.Duration(min(s.Limit, 1e6) * float64(time.Second)))
	moment := begin.Add(time.Duration(s.Lead * float64(time.Second))).Truncate(time.Second).Add(time.Second)
	switch s.How {
	case "one":
		many(s.First, s.Count, 1, end)
	case "callers":
		many(s.First, s.Count, s.Callers, end)
	case "at":
		due = moment
		many(s.First, s.Count, s.Callers, end)
	case "paced":
		for number := s.First; number < s.First+s.Count && time.Now().Before(end); number++ {
			part := float64(number) * 0.61803398875
			time.Sleep(time.Duration(s.Pause * (0.5 + part - float64(int(part))) * float64(time.Second)))
			words[tasks+number] = time.Now().UnixNano()
			put(number)
			done.Add(1)
		}
	default:
		check(fmt.Errorf("asynq cannot enqueue in the way %q", s.How))
	}
	check(json.NewEncoder(os.Stdout).Encode(map[string]any{
		"count":   done.Load(),
		"seconds": time.Since(begin).Seconds(),
		"cpu":     cpu() - used,
		"due":     float64(moment.UnixNano()) / 1e9,
	}))
}

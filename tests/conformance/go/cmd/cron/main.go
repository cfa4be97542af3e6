// Command cron reads a table of schedules from stdin, and prints when each of them fires, as the library of asynq's
// schedulers has it.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/robfig/cron/v3"

	"aioasynq/conformance/internal/lines"
)

// table is what is asked: every spec from every start on.
type table struct {
	Specs   []string `json:"specs"`
	Starts  []start  `json:"starts"`
	Count   int      `json:"count"` // firings to print
	Seconds bool     `json:"seconds"`
}

// start is a moment, and the zone of the scheduler that asks.
type start struct {
	Seconds     int64  `json:"seconds"` // unix time
	Nanoseconds int64  `json:"nanoseconds"`
	Location    string `json:"location"`
}

// row is the answer for a spec: firings in unix seconds for each start, or why it is refused.
type row struct {
	Firings [][]int64 `json:"firings"`
	Error   string    `json:"error,omitempty"`
}

func main() {
	var asked table
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		lines.Fatal(err)
	}
	starts := make([]time.Time, 0, len(asked.Starts))
	for _, start := range asked.Starts {
		location, err := time.LoadLocation(start.Location)
		if err != nil {
			lines.Fatal(err)
		}
		starts = append(starts, time.Unix(start.Seconds, start.Nanoseconds).In(location))
	}
	rows := make([]row, 0, len(asked.Specs))
	for _, spec := range asked.Specs {
		schedule, err := parse(spec, asked.Seconds)
		if err != nil {
			rows = append(rows, row{Error: err.Error()})
			continue
		}
		firings := make([][]int64, 0, len(starts))
		for _, start := range starts {
			firings = append(firings, next(schedule, start, asked.Count))
		}
		rows = append(rows, row{Firings: firings})
	}
	if err := json.NewEncoder(os.Stdout).Encode(rows); err != nil {
		lines.Fatal(err)
	}
}

// next are the first firings after a moment; fewer where the library finds no more.
func next(schedule cron.Schedule, from time.Time, count int) []int64 {
	found := make([]int64, 0, count)
	for len(found) < count {
		from = schedule.Next(from)
		if from.IsZero() {
			break
		}
		found = append(found, from.Unix())
	}
	return found
}

// parse takes what asynq's schedulers take, or with seconds also six fields. A spec at which the library panics is
// refused too.
func parse(spec string, seconds bool) (schedule cron.Schedule, err error) {
	defer func() {
		if reason := recover(); reason != nil {
			err = fmt.Errorf("panic: %v", reason)
		}
	}()
	if !seconds {
		return cron.ParseStandard(spec)
	}
	fields := cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor
	return cron.NewParser(fields).Parse(spec)
}

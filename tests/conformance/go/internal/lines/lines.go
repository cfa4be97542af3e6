// Package lines is how these programs talk: a JSON object a line on stdin, a JSON object a line on stdout.
package lines

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"aioasynq/conformance/internal/plain"
)

// Object is one line as it was read: its members, not yet decoded.
type Object = map[string]json.RawMessage

var (
	stdout sync.Mutex
	writer = json.NewEncoder(os.Stdout)
)

// Write prints value as one line. Lines of several goroutines do not mix.
func Write(value any) {
	stdout.Lock()
	defer stdout.Unlock()
	if err := writer.Encode(value); err != nil {
		Fatal(err)
	}
}

// Each calls do with each line of stdin, decoded as a T, until stdin ends; what is not JSON ends the program.
func Each[T any](do func(T)) {
	reader := json.NewDecoder(os.Stdin)
	for {
		var line T
		if err := reader.Decode(&line); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			Fatal(fmt.Errorf("stdin: %w", err))
		}
		do(line)
	}
}

// Answer prints {"ok": value}, or {"error": {"name", "text"}} when err is not nil.
func Answer(value any, err error) {
	if err != nil {
		Write(map[string]any{"error": map[string]any{"name": plain.ErrorName(err), "text": err.Error()}})
		return
	}
	Write(map[string]any{"ok": plain.Encode(value)})
}

// Fatal prints err on stderr and ends the program with status 1.
func Fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// Package plain turns Go values into the JSON that these programs speak, and back.
//
// One convention for all: names in snake case; moments are unix seconds with up to nine decimals, null for
// Go's zero time; durations are seconds; bytes are base64, null for nil (an empty slice is "").
package plain

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"time"
	"unicode"

	"github.com/hibiken/asynq"
)

var (
	timeType     = reflect.TypeFor[time.Time]()
	durationType = reflect.TypeFor[time.Duration]()
	bytesType    = reflect.TypeFor[[]byte]()
	taskType     = reflect.TypeFor[*asynq.Task]()
	numberType   = reflect.TypeFor[json.Number]()
	stringerType = reflect.TypeFor[fmt.Stringer]()
)

// Encode returns value as something json.Marshal writes in the convention of this package.
func Encode(value any) any {
	if value == nil {
		return nil
	}
	return encode(reflect.ValueOf(value))
}

func encode(v reflect.Value) any {
	switch v.Type() {
	case timeType:
		return Moment(v.Interface().(time.Time))
	case durationType:
		return decimal(v.Int())
	case bytesType:
		if v.IsNil() {
			return nil
		}
		return base64.StdEncoding.EncodeToString(v.Bytes())
	case numberType: // encoded already
		return v.Interface()
	case taskType: // its fields are private
		task := v.Interface().(*asynq.Task)
		return map[string]any{"type": task.Type(), "payload": Encode(task.Payload()), "headers": task.Headers()}
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		if v.Type().Implements(stringerType) { // enqueue options
			return v.Interface().(fmt.Stringer).String()
		}
		return encode(v.Elem())
	case reflect.Struct:
		out := map[string]any{}
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.IsExported() {
				out[Snake(field.Name)] = encode(v.Field(i))
			}
		}
		return out
	case reflect.Slice, reflect.Array:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = encode(v.Index(i))
		}
		return out
	case reflect.Map:
		out := map[string]any{}
		for _, key := range v.MapKeys() {
			out[fmt.Sprint(key.Interface())] = encode(v.MapIndex(key))
		}
		return out
	default:
		if v.Type().Implements(stringerType) { // task states
			return v.Interface().(fmt.Stringer).String()
		}
		return v.Interface()
	}
}

// Moment writes t as unix seconds, nil for Go's zero time.
func Moment(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	ns := new(big.Int).Mul(big.NewInt(t.Unix()), big.NewInt(1e9))
	return decimal(ns.Add(ns, big.NewInt(int64(t.Nanosecond()))).Int64())
}

// decimal writes nanoseconds as seconds, without the rounding a float would bring.
func decimal(ns int64) json.Number {
	text := new(big.Rat).SetFrac64(ns, 1e9).FloatString(9)
	return json.Number(strings.TrimSuffix(strings.TrimRight(text, "0"), "."))
}

// nanoseconds reads a decimal number of seconds.
func nanoseconds(raw json.RawMessage) (int64, error) {
	seconds, ok := new(big.Rat).SetString(string(raw))
	if !ok {
		return 0, fmt.Errorf("%s is not a number of seconds", raw)
	}
	ns := seconds.Mul(seconds, big.NewRat(1e9, 1))
	if !ns.IsInt() {
		ns = new(big.Rat).SetInt(new(big.Int).Quo(ns.Num(), ns.Denom()))
	}
	if !ns.Num().IsInt64() {
		return 0, fmt.Errorf("%s seconds are out of range", raw)
	}
	return ns.Num().Int64(), nil
}

// Seconds is a duration, in JSON a number of seconds.
type Seconds time.Duration

// UnmarshalJSON reads a number of seconds.
func (s *Seconds) UnmarshalJSON(raw []byte) error {
	ns, err := nanoseconds(raw)
	*s = Seconds(ns)
	return err
}

// Time is a moment, in JSON unix seconds.
type Time struct{ time.Time }

// UnmarshalJSON reads unix seconds; null leaves Go's zero time.
func (t *Time) UnmarshalJSON(raw []byte) error {
	if string(raw) == "null" {
		return nil
	}
	ns, err := nanoseconds(raw)
	t.Time = time.Unix(0, ns)
	return err
}

// Decode reads raw as a value of type t: the inverse of Encode.
func Decode(raw json.RawMessage, t reflect.Type) (reflect.Value, error) {
	out := reflect.New(t).Elem()
	if len(raw) == 0 || string(raw) == "null" {
		return out, nil
	}
	switch t {
	case timeType:
		var moment Time
		err := json.Unmarshal(raw, &moment)
		return reflect.ValueOf(moment.Time), err
	case durationType:
		var seconds Seconds
		err := json.Unmarshal(raw, &seconds)
		return reflect.ValueOf(time.Duration(seconds)), err
	case bytesType:
		err := json.Unmarshal(raw, out.Addr().Interface())
		return out, err
	}
	switch t.Kind() {
	case reflect.Pointer:
		elem, err := Decode(raw, t.Elem())
		if err != nil {
			return out, err
		}
		out.Set(reflect.New(t.Elem()))
		out.Elem().Set(elem)
		return out, nil
	case reflect.Struct:
		var given map[string]json.RawMessage
		if err := json.Unmarshal(raw, &given); err != nil {
			return out, err
		}
		for i := range t.NumField() {
			name := Snake(t.Field(i).Name)
			value, ok := given[name]
			if !ok {
				continue
			}
			delete(given, name)
			field, err := Decode(value, t.Field(i).Type)
			if err != nil {
				return out, fmt.Errorf("%s: %w", name, err)
			}
			out.Field(i).Set(field)
		}
		for name := range given {
			return out, fmt.Errorf("%s has no field %q", t.Name(), name)
		}
		return out, nil
	case reflect.Slice:
		var given []json.RawMessage
		if err := json.Unmarshal(raw, &given); err != nil {
			return out, err
		}
		out.Set(reflect.MakeSlice(t, len(given), len(given)))
		for i, value := range given {
			elem, err := Decode(value, t.Elem())
			if err != nil {
				return out, err
			}
			out.Index(i).Set(elem)
		}
		return out, nil
	default:
		err := json.Unmarshal(raw, out.Addr().Interface())
		return out, err
	}
}

// Snake turns a Go name into snake case: LastFailedAt is last_failed_at, ServerID is server_id.
func Snake(name string) string {
	letters := []rune(name)
	var out strings.Builder
	for i, letter := range letters {
		if unicode.IsUpper(letter) && i > 0 {
			afterLower := !unicode.IsUpper(letters[i-1])
			beforeLower := i+1 < len(letters) && unicode.IsLower(letters[i+1])
			if afterLower || beforeLower {
				out.WriteByte('_')
			}
		}
		out.WriteRune(unicode.ToLower(letter))
	}
	return out.String()
}

// ErrorName names err by the sentinel it is, or, for asynq's internal errors, by what its text says.
func ErrorName(err error) string {
	for name, sentinel := range map[string]error{
		"duplicate":       asynq.ErrDuplicateTask,
		"id_conflict":     asynq.ErrTaskIDConflict,
		"queue_not_found": asynq.ErrQueueNotFound,
		"queue_not_empty": asynq.ErrQueueNotEmpty,
		"task_not_found":  asynq.ErrTaskNotFound,
		"server_closed":   asynq.ErrServerClosed,
	} {
		if errors.Is(err, sentinel) {
			return name
		}
	}
	for _, known := range []struct{ name, part string }{
		{"duplicate", "task already exists"},
		{"id_conflict", "task id conflicts with another task"},
		{"nothing_pending", "no tasks are ready for processing"},
		{"not_active", "redis eval error: NOT FOUND"},
		{"task_not_found", "cannot find task with id="},
		{"queue_not_empty", "is not empty"},
		{"queue_not_found", "does not exist"},
	} {
		if strings.Contains(err.Error(), known.part) {
			return known.name
		}
	}
	return "other"
}

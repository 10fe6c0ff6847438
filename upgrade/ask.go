package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"example.com/baton/upgrade/internal/control"
)

// Errors of [Ask] and [AskStatus].
var (
	// ErrRefused: the server does not do what was requested, and reports why.
	ErrRefused = control.ErrRefused
	// ErrNoServer: no server accepts on the control socket.
	ErrNoServer = control.ErrNoServer
	// ErrLost: the server ended, or closed the connection, before its answer.
	ErrLost = control.ErrLost
	// ErrUntrusted: the server may be one that a stranger has put there. It wraps
	// [ErrRefused].
	ErrUntrusted = control.ErrUntrusted
	// ErrUnderway: the caller waits no longer for an upgrade, which goes on.
	ErrUnderway = errors.New("the upgrade continues")
)

// Ask asks the generation that serves for an upgrade, with overrides of its trial, and waits
// until its successor serves and it has drained. progress, if not nil, is called with
// what goes on meanwhile. When ctx ends, or the server, after the successor has
// begun to serve, the outcome is returned as far as it is known, without an
// error. Errors wrap [ErrNoServer], [ErrRefused], [ErrUntrusted], [ErrLost] or the
// context's error; that together with [ErrUnderway] if an upgrade has begun.
func Ask(ctx context.Context, path string, overrides Overrides, progress func(string)) (Outcome, error) {
	request := control.Request{Command: control.Upgrade}
	if overrides != (Overrides{}) {
		request = control.Request{Command: control.UpgradeWith, Overrides: encode(overrides)}
	}
	var known *Outcome
	last := ""
	err := control.Converse(ctx, path, request, func(r control.Reply) error {
		if r.Outcome != nil {
			o := new(Outcome)
			if err := json.Unmarshal(r.Outcome, o); err != nil {
				return err
			}
			known = o
		}
		if r.Progress == "" {
			return nil
		}
		if last = r.Progress; progress != nil {
			progress(r.Progress)
		}
		return nil
	})
	if known != nil {
		return *known, nil
	}
	if ctx.Err() != nil && last != "" {
		err = fmt.Errorf("%w; %w: %s", err, ErrUnderway, last)
	}
	return Outcome{}, err
}

// AskStatus asks the generation that serves for its status. Errors are those
// of [Ask].
func AskStatus(ctx context.Context, path string) (Status, error) {
	var status *Status
	err := control.Converse(ctx, path, control.Request{Command: control.Status}, func(r control.Reply) error {
		if r.Status == nil {
			return nil
		}
		return json.Unmarshal(r.Status, &status)
	})
	if err == nil && status == nil {
		err = ErrLost
	}
	if err != nil {
		return Status{}, err
	}
	return *status, nil
}

// statusHandler answers clients of the control socket.
type statusHandler struct{ *Generation }

func (h statusHandler) Status() json.RawMessage { return encode(h.Generation.Status()) }

func (statusHandler) Refusal() json.RawMessage { return encode(refusal()) }

func refusal() *Outcome {
	return &Outcome{Result: Refused, Reason: "the server is stopping"}
}

// encode returns the JSON of what is sent to clients and other generations.
func encode(v any) json.RawMessage {
	text, err := json.Marshal(v)
	if err != nil { // a value that is no JSON, such as NaN, is a mistake in the service
		return json.RawMessage("null")
	}
	return text
}

// decode is the reverse of encode. What is missing leaves v as it is.
func decode(text json.RawMessage, v any) error {
	if text == nil {
		return nil
	}
	return json.Unmarshal(text, v)
}

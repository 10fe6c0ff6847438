package control

import (
	"errors"
	"strings"
	"testing"
)

func TestVerdict(t *testing.T) {
	for name, test := range map[string]struct {
		request Request
		good    bool
		refusal string
	}{
		"promote":         {Request{Command: Promote}, true, ""},
		"abort":           {Request{Command: Abort}, false, ""},
		"abort, reason":   {Request{Command: Abort, Reason: "half of the\nlogins fail"}, false, ""},
		"promote refused": {Request{Command: Promote}, true, "no trial is under way"},
		"abort refused":   {Request{Command: Abort}, false, "no trial is under way"},
	} {
		t.Run(name, func(t *testing.T) {
			s, path := serve(t)
			replies, done := 0, make(chan error, 1)
			go func() {
				done <- Converse(t.Context(), path, test.request, func(Reply) error { replies++; return nil })
			}()
			v := <-s.Verdicts()
			if v.Good != test.good || v.Reason != printable(test.request.Reason) {
				t.Errorf("got good %t, reason %q, want %t, %q", v.Good, v.Reason, test.good, test.request.Reason)
			}
			if test.refusal == "" {
				v.Accept()
				if err := <-done; err != nil || replies != 1 {
					t.Errorf("got %d replies, %v, want one", replies, err)
				}
				return
			}
			v.Refuse(test.refusal)
			if err := <-done; !errors.Is(err, ErrRefused) || err.Error() != "the server refuses: "+test.refusal {
				t.Errorf("got %v, want %v: %s", err, ErrRefused, test.refusal)
			}
		})
	}
}

// A client that has gone does not keep the server from its answer.
func TestVerdictOfAClientThatHasGone(t *testing.T) {
	v := newVerdict(Request{Command: Abort})
	v.Accept()
}

func TestVerdictAtTheEnd(t *testing.T) {
	s, path := serve(t)
	close(s.closing)
	t.Cleanup(s.Stop)
	for _, command := range []string{Promote, Abort} {
		err := Converse(t.Context(), path, Request{Command: command}, func(Reply) error { return nil })
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "the server is stopping") {
			t.Errorf("%s: got %v, want that the server is stopping", command, err)
		}
	}
}

func TestOverrides(t *testing.T) {
	s, path := serve(t)
	for name, test := range map[string]struct {
		request Request
		want    string
	}{
		"none": {Request{Command: Upgrade}, ""},
		"some": {Request{Command: UpgradeWith, Overrides: []byte(`{"share":0.1}`)}, `{"share":0.1}`},
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan error, 1)
			go func() { done <- Converse(t.Context(), path, test.request, func(Reply) error { return nil }) }()
			w := <-s.Requests()
			if string(w.Overrides) != test.want {
				t.Errorf("got %s, want %s", w.Overrides, test.want)
			}
			w.Reply(Reply{Final: true})
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("invalid", func(t *testing.T) {
		err := Converse(t.Context(), path, Request{Command: UpgradeWith, Overrides: []byte(`{"share":2}`)}, func(Reply) error { return nil })
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "the share is 2") {
			t.Errorf("got %v, want a refusal", err)
		}
	})
}

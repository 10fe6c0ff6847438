package upgrade

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"example.com/baton/upgrade/internal/judge"
	"example.com/baton/upgrade/internal/lifecycle"
)

func TestTrialDefaults(t *testing.T) {
	for name, test := range map[string]struct{ trial, want Trial }{
		"none":    {Trial{}, Trial{Time: 30 * time.Second}},
		"all":     {Trial{.1, time.Second, true, true, time.Minute}, Trial{.1, time.Second, true, true, time.Minute}},
		"beyond":  {Trial{Share: 2}, Trial{Share: 1, Time: 30 * time.Second}},
		"below 0": {Trial{Share: -1, Time: -1, Watch: -1}, Trial{Time: 30 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.trial.withDefaults(); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestOverrides(t *testing.T) {
	own := Trial{Share: .1, Time: time.Second, Latency: true, Watch: time.Minute}
	share, none := .5, time.Duration(0)
	for name, test := range map[string]struct {
		overrides Overrides
		want      Trial
		problem   string
	}{
		"none":       {Overrides{}, own, ""},
		"share":      {Overrides{Share: &share}, Trial{.5, time.Second, true, false, time.Minute}, ""},
		"no watch":   {Overrides{Watch: &none}, Trial{.1, time.Second, true, false, 0}, ""},
		"no trial":   {Overrides{Share: new(float64)}, Trial{0, time.Second, true, false, time.Minute}, ""},
		"no time":    {Overrides{Time: &none}, Trial{}, "a trial takes 0s; want more than 0s"},
		"time":       {Overrides{Time: ptr(time.Hour)}, Trial{.1, time.Hour, true, false, time.Minute}, ""},
		"too much":   {Overrides{Share: ptr(1.5)}, Trial{}, "the share of a trial is 1.5; want 0 to 1"},
		"below 0":    {Overrides{Share: ptr(-.5)}, Trial{}, "the share of a trial is -0.5; want 0 to 1"},
		"no time at": {Overrides{Watch: ptr(-time.Second)}, Trial{}, "a watch takes -1s; want 0s or more"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := decodeOverrides(encode(test.overrides))
			if test.problem != "" {
				if err == nil || err.Error() != test.problem {
					t.Errorf("got %v, want %s", err, test.problem)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, test.overrides) {
				t.Errorf("got %+v, %v, want %+v", got, err, test.overrides)
			}
			if got := got.apply(own); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
	for _, text := range []string{`"10%"`, `{"share":"10%"}`, `{"time":1.5}`, `{"share":1e999}`} {
		if o, err := decodeOverrides([]byte(text)); err == nil {
			t.Errorf("%s: got %+v, want an error", text, o)
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestShorten(t *testing.T) {
	for reason, want := range map[string]int{"": 0, "bad": 3, strings.Repeat("x", 501): 500, strings.Repeat("漢", 200): 498} {
		if got := shorten(reason); len(got) != want || !strings.HasPrefix(reason, got) {
			t.Errorf("%q: got %d bytes, want %d", reason, len(got), want)
		}
	}
}

func TestSuccessorThatDoesNotAnswer(t *testing.T) {
	const interval = 200 * time.Millisecond
	for name, test := range map[string]struct {
		answers func(nth int) bool
		paused  time.Duration // of this process, at the tenth comparison
		bad     int           // the comparison that is; 0: none
	}{
		"it answers":           {func(int) bool { return true }, 0, 0},
		"never":                {func(int) bool { return false }, 0, 26},
		"no more":              {func(nth int) bool { return nth < 10 }, 0, 34},
		"late":                 {func(nth int) bool { return nth%20 == 0 }, 0, 0},
		"this process is held": {func(nth int) bool { return nth != 10 }, time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			c := &comparison{judge: judge.New(judge.Options{}), began: now}
			bad := 0
			for nth := 1; nth <= 50 && bad == 0; nth++ {
				if now = now.Add(interval); nth == 10 {
					now = now.Add(test.paused)
				}
				c.listen(now, test.answers(nth))
				if e := c.observe(Outcomes{}, Outcomes{}, 1); e.Verdict == lifecycle.Bad {
					bad = nth
				}
			}
			if bad != test.bad {
				t.Errorf("bad: got comparison %d, want %d", bad, test.bad)
			}
		})
	}
}

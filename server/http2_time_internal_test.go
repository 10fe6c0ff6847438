package server

import (
	"testing"
	"time"
)

func TestFrameTime(t *testing.T) {
	const header, body = 10 * time.Second, 80 * time.Second
	type step struct {
		after        time.Duration // the step before
		came         string        // "frame": one was whole, "part": of a header block, "": neither
		within, data bool
		want         time.Duration // from now to the new deadline; 0: no new one
	}
	for name, steps := range map[string][]step{
		"between two frames":             {{}, {after: time.Hour}},
		"a header, in pieces":            {{within: true, want: header}, {after: 3 * time.Second, within: true}, {after: 3 * time.Second, within: true}},
		"a header block of two frames":   {{within: true, want: header}, {after: 3 * time.Second, came: "part", within: true}},
		"two headers":                    {{within: true, want: header}, {after: 3 * time.Second, came: "frame", within: true, want: header}},
		"DATA, in pieces":                {{within: true, data: true, want: body}, {after: 15 * time.Second, within: true, data: true, want: body}},
		"DATA, in pieces that are quick": {{within: true, data: true, want: body}, {after: 5 * time.Second, within: true, data: true}},
		"DATA after a header":            {{within: true, want: header}, {after: time.Second, came: "frame", within: true, data: true, want: body}},
		"a header after DATA":            {{within: true, data: true, want: body}, {after: time.Second, came: "frame", within: true, want: header}},
	} {
		t.Run(name, func(t *testing.T) {
			var f frameTime
			now := time.Unix(1_000_000, 0)
			for i, s := range steps {
				now = now.Add(s.after)
				if s.came != "" {
					f.came(s.came == "frame")
				}
				deadline, set := f.await(now, s.within, s.data, header, body)
				if set != (s.want > 0) || set && deadline.Sub(now) != s.want {
					t.Errorf("step %d: got a new deadline %t, in %v, want %v", i, set, deadline.Sub(now), s.want)
				}
			}
		})
	}
}

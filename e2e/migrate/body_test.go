package migrate

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/service"
)

// Bodies of which one part comes before the upgrade and the rest after it.
func TestBodyAcrossTheUpgrade(t *testing.T) {
	t.Parallel()
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			b := moving(t, network, new(mirror))
			body := string(exchange.Pattern(200_000))
			type straddle struct {
				name  string
				ask   question
				split int
			}
			var cases []straddle
			for _, size := range []int{100, 5_000, len(body)} {
				for kind, a := range map[string]question{
					"length":       post(fmt.Sprintf("/length/%d", size), body[:size]),
					"one chunk":    postChunked(fmt.Sprintf("/chunk/%d", size), body[:size], size),
					"small chunks": postChunked(fmt.Sprintf("/chunks/%d", size), body[:size], 1+size/7),
				} {
					header := strings.Index(a.raw, "\r\n\r\n") + 4
					for _, split := range []int{header, header + 1, header + 4, header + (len(a.raw)-header)/2, len(a.raw) - 6, len(a.raw) - 3, len(a.raw) - 1} {
						cases = append(cases, straddle{fmt.Sprintf("%d bytes, %s, split after %d", size, kind, split-header), a, split})
					}
				}
			}
			all := talks(t, b, len(cases))
			at := make(map[*talk]straddle)
			for i, k := range all {
				k.name, at[k] = cases[i].name, cases[i]
			}
			for round := range 2 {
				each(t, all, "first part", func(k *talk, _ *rand.Rand) error { return k.say(at[k].ask.raw[:at[k].split]) })
				await.Until(t, "requests under way", func() bool { return requestsInFlight(b) == len(all) })
				around(t, b, all, "second part", func(k *talk, _ *rand.Rand) error {
					// The next request comes with the end of this one's body, to some.
					next := get(fmt.Sprintf("/next/%d", round))
					if at[k].split%2 == 0 {
						next.raw = ""
					}
					if err := k.say(at[k].ask.raw[at[k].split:] + next.raw); err != nil {
						return err
					}
					if err := k.hear(at[k].ask); err != nil || next.raw == "" {
						return err
					}
					return k.hear(next)
				})
			}
			checkAllMoved(t, b, all)
		})
	}
}

// requestsInFlight counts the requests of all generations.
func requestsInFlight(b *service.Baton) (n int) {
	b.T.Helper()
	for _, g := range b.Status().Generations {
		n += g.RequestsInFlight
	}
	return n
}

// A client that waits for 100 Continue to send its body, with the upgrade before and after that.
func TestExpectContinueAcrossTheUpgrade(t *testing.T) {
	t.Parallel()
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			m := &mirror{gate: make(chan struct{})}
			b := moving(t, network, m)
			open := sync.OnceFunc(func() { close(m.gate) })
			t.Cleanup(open)

			const perCase = 20
			all := talks(t, b, 4*perCase)
			kinds := []string{"/around/", "/header/", "/told/", "/gate/"}
			kind := make(map[*talk]string)
			for i, k := range all {
				kind[k] = kinds[i/perCase]
				k.name = kind[k] + fmt.Sprint(i+1)
			}
			ofTalk := func(k *talk) (a question, header, body string) {
				body = "what " + k.name + " has to say"
				a = post(k.name, body, "Expect: 100-continue")
				return a, strings.TrimSuffix(a.raw, body), body
			}
			told := func(k *talk) error {
				k.SetReadDeadline(time.Now().Add(await.Hang))
				if err := k.ReadHead(&k.resp); err != nil {
					return err
				}
				if k.resp.Status != 100 {
					return fmt.Errorf("got %d, want 100", k.resp.Status)
				}
				return nil
			}
			each(t, all, "before", func(k *talk, _ *rand.Rand) error {
				_, header, _ := ofTalk(k)
				switch kind[k] {
				case "/header/": // all but the last byte
					return k.say(header[:len(header)-1])
				case "/told/":
					if err := k.say(header); err != nil {
						return err
					}
					return told(k)
				case "/gate/": // the backend does not ask for it yet
					return k.say(header)
				}
				return nil
			})
			await.Until(t, "requests in the backend", func() bool { return m.entered.Load() == perCase })
			around(t, b, all, "after", func(k *talk, random *rand.Rand) error {
				a, header, body := ofTalk(k)
				var err error
				switch kind[k] {
				case "/around/":
					if err = k.say(header); err == nil {
						err = told(k)
					}
				case "/header/":
					if err = k.say(header[len(header)-1:]); err == nil {
						err = told(k)
					}
				case "/gate/":
					open()
					err = told(k)
				}
				if err != nil {
					return err
				}
				atRandom(random)
				if err := k.say(body); err != nil {
					return err
				}
				return k.hear(a)
			})
			checkAllMoved(t, b, all)
		})
	}
}

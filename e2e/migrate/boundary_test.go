package migrate

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/tier"
)

// One byte of the next request, sent exactly while the connection moves; then the rest.
func TestOneByteWhileMoving(t *testing.T) {
	t.Parallel()
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			b := moving(t, network, new(mirror))
			all := talks(t, b, 150)
			each(t, all[:100], "first request", func(k *talk, _ *rand.Rand) error { return k.exchange(get("/first/" + k.name)) })
			for round := range 2 {
				around(t, b, all, "request in two parts", func(k *talk, random *rand.Rand) error {
					a := get(fmt.Sprintf("/round/%d/%s", round, k.name))
					if random.IntN(2) == 0 {
						a = post(fmt.Sprintf("/round/%d/%s", round, k.name), "a body")
					}
					if err := k.say(a.raw[:1]); err != nil {
						return err
					}
					atRandom(random)
					if err := k.say(a.raw[1:]); err != nil {
						return err
					}
					return k.hear(a)
				})
			}
			checkAllMoved(t, b, all)
		})
	}
}

// Requests that are split at every byte, with the upgrade between the two parts.
func TestSplitAtEveryByte(t *testing.T) {
	tier.Slow(t, "moves a connection at every byte of a request")
	t.Parallel()
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			b := moving(t, network, new(mirror))
			streams := func(id string) [][]question {
				return [][]question{
					{get("/a" + id)},
					{get("/b" + id), get("/c" + id)},
					{post("/d"+id, "a body"), get("/e" + id)},
					{postChunked("/f"+id, "some chunks", 5), get("/g" + id)},
				}
			}
			// One connection for each place to split one of the streams.
			type place struct{ stream, split int }
			var places []place
			for i, stream := range streams(".00") {
				for split := range len(rawOf(stream)) {
					places = append(places, place{i, split})
				}
			}
			all := talks(t, b, len(places))
			at := make(map[*talk]place)
			for i, k := range all {
				at[k] = places[i]
				k.name = fmt.Sprintf("%d (stream %d split after %d bytes)", i+1, places[i].stream+1, places[i].split)
			}
			for round := range 2 {
				parts := func(k *talk) (stream []question, before, after string) {
					stream = streams(fmt.Sprintf(".%d%d", round, round))[at[k].stream]
					raw := rawOf(stream)
					return stream, raw[:at[k].split], raw[at[k].split:]
				}
				each(t, all, "first part", func(k *talk, _ *rand.Rand) error {
					_, before, _ := parts(k)
					return k.say(before)
				})
				around(t, b, all, "second part", func(k *talk, random *rand.Rand) error {
					if round == 1 { // when all others have moved
						time.Sleep(100 * time.Millisecond)
					}
					stream, _, after := parts(k)
					if err := k.say(after); err != nil {
						return err
					}
					return k.hear(stream...)
				})
			}
			checkAllMoved(t, b, all)
		})
	}
}

// Three requests that arrive at once around the handoff: each boundary between them is one at which the connection must not move.
func TestPipelinedWhileMoving(t *testing.T) {
	t.Parallel()
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			b := moving(t, network, new(mirror))
			all := talks(t, b, 60)
			for round := range 2 {
				around(t, b, all, "three requests", func(k *talk, random *rand.Rand) error {
					for i := range 5 {
						uri := fmt.Sprintf("/%d/%d/%s", round, i, k.name)
						if err := k.exchange(get(uri+"/a"), post(uri+"/b", "a body"), get(uri+"/c")); err != nil {
							return err
						}
						atRandom(random)
					}
					return nil
				})
			}
			checkAllMoved(t, b, all)
		})
	}
}

// An empty line after the body of a POST, which some old clients send, is passed over even if it comes to another
// generation than the POST (RFC 9112, section 2.2).
func TestEmptyLineAfterTheMove(t *testing.T) {
	t.Parallel()
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			b := moving(t, network, new(mirror))
			all := talks(t, b, 10)
			each(t, all, "POST", func(k *talk, _ *rand.Rand) error { return k.exchange(post("/post", "a body")) })
			around(t, b, all, "empty line and GET", func(k *talk, random *rand.Rand) error {
				time.Sleep(50 * time.Millisecond) // after the move
				if err := k.say("\r\n"); err != nil {
					return err
				}
				atRandom(random)
				return k.exchange(get("/get"))
			})
			checkAllMoved(t, b, all)
		})
	}
}

// The end of a connection that has moved is the successor's to make: the predecessor, which lives on, holds nothing of it.
func TestEndOfAMovedConnection(t *testing.T) {
	t.Parallel()
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			m := &mirror{gate: make(chan struct{})}
			b := moving(t, network, m)
			open := sync.OnceFunc(func() { close(m.gate) })
			t.Cleanup(open)
			predecessor := b.Follow(b.PID())
			busy := talks(t, b, 1)
			all := talks(t, b, 20)
			each(t, all[:10], "first request", func(k *talk, _ *rand.Rand) error { return k.exchange(get("/first")) })
			each(t, busy, "request that is held", func(k *talk, _ *rand.Rand) error { return k.say(get("/gate").raw) })
			await.Until(t, "the request in the backend", func() bool { return m.entered.Load() == 1 })
			result := handoff(t, b)
			await.Until(t, "the move", func() bool {
				return b.Metric("baton_connections_migrated_total", "direction", "out") == float64(len(all))
			})
			last := question{"GET", string(http1.Request("GET", "/last", nil, "Connection: close")), mirrored("GET", "/last", "")}
			each(t, all, "last request", func(k *talk, _ *rand.Rand) error {
				if err := k.say(last.raw); err != nil {
					return err
				}
				if err := k.hearOne(last); err != nil {
					return err
				}
				return k.expectEnd()
			})
			if !predecessor.Alive() {
				t.Error("predecessor: gone under its request")
			}
			open()
			each(t, busy, "request that was held", func(k *talk, _ *rand.Rand) error { return k.hear(get("/gate")) })
			checkNoneClosed(t, result())
			checkAllMoved(t, b, busy)
		})
	}
}

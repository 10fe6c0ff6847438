package migrate

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/exchange"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// Clients that go while their connection moves: half, in order, or with a reset. Each gets what it has asked for if it
// can, nobody else notices, and nothing of them is left.
func TestClientsLeaveWhileMoving(t *testing.T) {
	tier.Slow(t, "makes many clients leave")
	t.Parallel()
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			options := []service.Option{service.Files(t), service.Patient(), service.Args("-idle-grace", "25s")}
			if network == "unix" {
				options = append(options, service.Listen("unix:DIR/public.sock"))
			}
			b := service.Start(t, options...)
			whole := question{"GET", string(http1.Request("GET", "/4000.bin", nil)), string(exchange.Pattern(4000))}
			halfClose := func(k *talk) error { return k.Conn.Conn.(interface{ CloseWrite() error }).CloseWrite() }
			for round := range 3 {
				all := talks(t, b, 160)
				each(t, all[:120], "first request", func(k *talk, _ *rand.Rand) error { return k.exchange(whole) })
				predecessor := b.Follow(b.PID())
				stayed := all[:40:40]
				result := handoff(t, b)
				each(t, all, fmt.Sprintf("round %d", round+1), func(k *talk, random *rand.Rand) error {
					atRandom(random)
					if slices.Contains(stayed, k) {
						return k.exchange(whole)
					}
					switch random.IntN(7) {
					case 0: // with a request on its way
						if err := k.say(whole.raw); err != nil {
							return err
						}
						if err := halfClose(k); err != nil {
							return err
						}
						if err := k.hearOne(whole); err != nil {
							return err
						}
						return k.expectEnd()
					case 1:
						if err := halfClose(k); err != nil {
							return err
						}
						return k.expectEnd()
					case 2: // within a header: nothing is owed but an end
						if err := k.say(whole.raw[:10]); err != nil {
							return err
						}
						if err := halfClose(k); err != nil {
							return err
						}
						k.SetReadDeadline(time.Now().Add(await.Hang))
						if _, err := io.Copy(io.Discard, k.R); http1.EndingOf(err) == http1.StillOn {
							return fmt.Errorf("still open")
						}
						return nil
					case 3:
						if err := k.say(whole.raw); err != nil {
							return err
						}
						resetIt(k)
					case 4:
						resetIt(k)
					case 5:
						if err := k.say(whole.raw[:10]); err != nil {
							return err
						}
						k.Close()
					default:
						k.Close()
					}
					return nil
				})
				if !predecessor.Within(await.Hang) {
					t.Fatalf("round %d: predecessor alive long after the last client, want it gone; %+v", round+1, b.Status().Generations)
				}
				u := result()
				if c := u.Predecessor.Connections; u.Code != 0 || c.Grace+c.Cut+c.Timeout != 0 {
					t.Errorf("drain: got exit code %d, %+v, want nothing closed forcibly, timed out or closed after the grace", u.Code, u.Predecessor)
				}
				await.Until(t, "the account of who stayed", func() bool { return connectionsOf(b) == len(stayed) })
				each(t, stayed, "who stayed", func(k *talk, _ *rand.Rand) error { return k.exchange(whole) })
				for _, k := range stayed {
					k.Close()
				}
				await.Until(t, "an empty account", func() bool { return connectionsOf(b) == 0 })
			}
		})
	}
}

// resetIt closes a connection with a reset where the network has such a thing.
func resetIt(k *talk) {
	if tc, ok := k.Conn.Conn.(*net.TCPConn); ok {
		tc.SetLinger(0)
	}
	k.Close()
}

// Clients that never stop sending, so that there is no moment at which the service holds nothing of the next
// request: they are sent Connection: close after the grace, and have lost nothing of what came up to that answer.
func TestNeverASafeMoment(t *testing.T) {
	tier.Slow(t, "waits for a moment that does not come")
	t.Parallel()
	const grace = 400 * time.Millisecond
	for _, network := range networks {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			b := moving(t, network, new(mirror), service.Args("-idle-grace", grace.String()))
			all := talks(t, b, 8)
			var begun, streaming sync.WaitGroup
			begun.Add(len(all))
			type end struct {
				answered int
				at       time.Time
				err      error
			}
			ends := make([]end, len(all))
			for i, k := range all {
				uri := func(n int) string { return fmt.Sprintf("/slow/%s/%d", k.name, n) }
				// A backlog of so many requests is more than the service answers before the next are there,
				// and less than what it reads away after it has closed.
				window := make(chan struct{}, 400)
				told := make(chan struct{})
				streaming.Go(func() {
					for n := 1; ; n++ {
						select {
						case window <- struct{}{}:
						case <-told:
							return
						}
						k.SetWriteDeadline(time.Now().Add(await.Hang))
						if _, err := io.WriteString(k, get(uri(n)).raw); err != nil {
							return // which is for the reader to judge
						}
					}
				})
				streaming.Go(func() {
					defer close(told)
					e := &ends[i]
					for n := 1; e.err == nil && (n == 1 || !k.resp.Close); n++ {
						if e.err = k.hearOne(get(uri(n))); e.err == nil {
							e.answered = n
						}
						if n == 20 {
							begun.Done()
						}
						<-window
					}
					e.at = time.Now()
					if e.answered < 20 {
						begun.Done()
					}
				})
			}
			begun.Wait()
			predecessor := b.Follow(b.PID())
			result := handoff(t, b)
			streaming.Wait()
			u := result()
			for i, e := range ends {
				switch took := e.at.Sub(u.Handoff()); {
				case e.err != nil:
					t.Errorf("connection %s: after %d answers: %v", all[i].name, e.answered, e.err)
				case took < grace || took > await.Hang: // what it has sent ahead is answered first
					t.Errorf("connection %s: sent Connection: close %v after the handoff, after %d answers, want the grace of %v and a moment", all[i].name, took, e.answered, grace)
				}
				if e := all[i].AwaitClose(await.Hang); e == http1.StillOn || e == http1.MoreData {
					t.Errorf("connection %s: after the answer that told: %s, want its end", all[i].name, e)
				}
			}
			if !predecessor.Within(await.Hang) {
				t.Error("predecessor: alive long after its last answer")
			}
			if c := u.Predecessor.Connections; u.Code != 0 || c.Announced != len(all) || c.Cut+c.Grace+c.Error+c.Timeout != 0 {
				t.Errorf("drain: got exit code %d, %+v, want %d sent Connection: close", u.Code, u.Predecessor, len(all))
			}
		})
	}
}

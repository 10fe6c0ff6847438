package load

import (
	"cmp"
	"slices"
	"testing"

	"example.com/baton/e2e/internal/await"
)

// Keeping are the habits of clients that keep their connection for as long as they may.
var Keeping = []Habit{BackToBack, Pausing, Silent, SilentAfter}

// HTTP2Habits are those of clients of HTTP/2.
var HTTP2Habits = []Habit{Streams, StreamsPausing, StreamsSilent}

// SocketHabits are those of clients of WebSockets.
var SocketHabits = []Habit{Sockets, SocketsPausing, SocketsSilent}

// ClientsOf counts the clients of some habits.
func ClientsOf(clients [Habits]int, some ...Habit) (n int) {
	for _, h := range some {
		n += clients[h]
	}
	return n
}

// AwaitCrowd waits until every client has its connection, and all but the idle ones have been answered.
func AwaitCrowd(t *testing.T, counts *Tally, clients [Habits]int) {
	t.Helper()
	await.Until(t, "requests of every client", func() bool {
		for h, n := range clients {
			if counts.Connections[h].Load() < int64(n) {
				return false
			}
		}
		return (clients[Pausing] == 0 || counts.Answered[Pausing].Load() > int64(clients[Pausing])) &&
			counts.Answered[SilentAfter].Load() == int64(clients[SilentAfter]) &&
			counts.Connections[Silent].Load() == int64(clients[Silent]) &&
			counts.Answered[Streams].Load() >= int64(clients[Streams]) &&
			counts.Answered[StreamsPausing].Load() >= int64(clients[StreamsPausing]) &&
			counts.Connections[StreamsSilent].Load() == int64(clients[StreamsSilent]) &&
			answeredEach(counts, clients, Sockets, SocketsPausing, SocketsSilent)
	})
}

// answeredEach says whether there are as many answers as clients of each of these habits at least.
func answeredEach(counts *Tally, clients [Habits]int, habits ...Habit) bool {
	for _, h := range habits {
		if counts.Answered[h].Load() < int64(clients[h]) {
			return false
		}
	}
	return true
}

// Median returns the median.
func Median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// CheckNothingLost checks that every client that speaks was answered, always.
func CheckNothingLost(t *testing.T, counts *Tally) {
	t.Helper()
	if counts.Failures() != 0 {
		t.Errorf("%d requests lost, want none", counts.Failures())
	}
	CheckAnswered(t, counts)
}

// CheckAnswered checks that clients of each habit but silence have been answered.
func CheckAnswered(t *testing.T, counts *Tally) {
	t.Helper()
	for h := range Habits {
		if h != Silent && counts.Clients[h] > 0 && counts.Answered[h].Load() == 0 {
			t.Errorf("%v clients: no requests", h)
		}
	}
}

// CheckKept checks that each client that keeps its connection has the one that it began with.
func CheckKept(t *testing.T, counts *Tally, clients [Habits]int) {
	t.Helper()
	checkKept(t, counts, clients, Keeping)
}

// CheckAllKept checks the same of the clients of every protocol.
func CheckAllKept(t *testing.T, counts *Tally, clients [Habits]int) {
	t.Helper()
	checkKept(t, counts, clients, slices.Concat(Keeping, HTTP2Habits, SocketHabits))
	if n := counts.Refused(); n != 0 {
		t.Errorf("%d streams refused, want none", n)
	}
}

func checkKept(t *testing.T, counts *Tally, clients [Habits]int, keeping []Habit) {
	t.Helper()
	for _, h := range keeping {
		if n := counts.Connections[h].Load(); n != int64(clients[h]) {
			t.Errorf("%v clients: got %d connections used by %d, want one by each", h, n, clients[h])
		}
		if n := counts.IdleClosed[h].Load() + counts.Reconnects[h].Load(); n != 0 {
			t.Errorf("%v clients: got %d connections closed by the server, want none", h, n)
		}
	}
}

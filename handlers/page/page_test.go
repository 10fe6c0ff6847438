package page

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/baton/handlers/internal/testserver"
	"example.com/baton/handlers/metrics"
	"example.com/baton/handlers/middleware"
	"example.com/baton/upgrade"
)

var identity = Identity{Generation: 3, PID: 4242, Version: "1.4.0"}

func TestPageShowsTheGenerationWithoutScripts(t *testing.T) {
	_, page := testserver.Do(t, testserver.Serve(t, New(Options{Identity: Identity{Generation: 3, PID: 4242, Version: "<1.4.0>"}})), "GET", "/")
	for _, want := range []string{`<p id="generation">3</p>`, `<dd id="version">&lt;1.4.0&gt;</dd>`, `<dd id="pid">4242</dd>`,
		`<title>Generation 3 · Baton</title>`, `<code id="hint">kill -HUP 4242</code>`, `<li><span>3</span></li>`, `role="status">loaded<`} {
		if !strings.Contains(page, want) {
			t.Errorf("page: lacks %s", want)
		}
	}
}

func TestPage(t *testing.T) {
	server := testserver.Serve(t, New(Options{Identity: identity}))
	for _, test := range []struct {
		name, method, path string
		status             int
	}{
		{"page", "GET", "/", 200},
		{"page, HEAD", "HEAD", "/", 200},
		{"events, HEAD", "HEAD", "/events", 200},
		{"post", "POST", "/", 405},
		{"post to events", "POST", "/events", 405},
		{"other", "GET", "/favicon.ico", 404},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, _ := testserver.Do(t, server, test.method, test.path)
			testserver.Equal(t, "status", response.StatusCode, test.status)
			if test.status == 200 {
				testserver.Equal(t, "Cache-Control", response.Header.Get("Cache-Control"), "no-store")
			}
		})
	}
	response, body := testserver.Do(t, server, "GET", "/")
	testserver.Equal(t, "Content-Type", response.Header.Get("Content-Type"), "text/html; charset=utf-8")
	testserver.CheckPolicy(t, response, body)
}

func TestPageEvents(t *testing.T) {
	logged, logger := testserver.Capture()
	handler := middleware.Log(metrics.New(metrics.Options{}).Count(New(Options{Identity: identity})), logger)
	ctx, cancel := context.WithCancel(t.Context())
	response, _, fields := testserver.Events(t, testserver.Serve(t, handler), ctx)
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"} {
		testserver.Equal(t, name, response.Header.Get(name), want)
	}
	testserver.Equal(t, "connection closes after it", response.Close, false)
	testserver.Equal(t, "fields", len(fields), 4)
	testserver.Equal(t, "retry", fields[0], "retry: 200")
	testserver.Equal(t, "id", fields[1], "id: 3-4242")
	testserver.Equal(t, "event", fields[2], "event: identity")
	var got Identity
	if err := json.Unmarshal([]byte(strings.TrimPrefix(fields[3], "data: ")), &got); err != nil {
		t.Fatal(err)
	}
	testserver.Equal(t, "identity", got, identity)

	cancel() // the client goes
	testserver.Equal(t, "status logged at its end", logged.Await(t, "request")["status"], any(200.0))
}

// A browser whose stream broke off is not told once more what it knows.
func TestPageEventsAgain(t *testing.T) {
	for id, want := range map[string]string{"3-4242": "event: ping", "2-4141": "event: identity", "3-1": "event: identity"} {
		ctx, cancel := context.WithCancel(t.Context())
		recorder := &testserver.Written{ResponseRecorder: httptest.NewRecorder()}
		request := httptest.NewRequestWithContext(ctx, "GET", "/events", nil)
		request.Header.Set("Last-Event-ID", id)
		cancel() // after the first event
		New(Options{Identity: identity}).ServeHTTP(recorder, request)
		if got := recorder.Body.String(); strings.Count(got, "event: ") != 1 || !strings.Contains(got, want) {
			t.Errorf("after %s: got %q, want one %s", id, got, want)
		}
	}
}

func TestPageEventsEndWithTheDrain(t *testing.T) {
	drain := make(chan struct{})
	server := testserver.Serve(t, New(Options{Identity: identity, Draining: func(context.Context) <-chan struct{} { return drain }}))
	_, reader, _ := testserver.Events(t, server, t.Context())
	close(drain)
	rest, err := io.ReadAll(reader)
	testserver.Equal(t, "ends cleanly", err, nil)
	testserver.Equal(t, "rest", string(rest), "")

	// Who asks a draining generation is sent on and told nothing that is about to change.
	_, body := testserver.Do(t, server, "GET", "/events")
	testserver.Equal(t, "stream of a draining generation", body, "retry: 200\n\n")
}

func trials(t *upgrade.TrialStatus) func() *upgrade.TrialStatus {
	return func() *upgrade.TrialStatus { return t }
}

func TestPageShowsATrialWithoutScripts(t *testing.T) {
	running := &upgrade.TrialStatus{Stage: upgrade.StageTrial, Share: .1, From: 3, To: 4, Successor: upgrade.Outcomes{Ended: 1312, Failed: 7}}
	for _, test := range []struct {
		name  string
		trial func() *upgrade.TrialStatus
		want  []string
	}{
		{"none", nil, []string{`<div id="trial" aria-live="off" hidden>`}},
		{"none so far", trials(nil), []string{`<div id="trial" aria-live="off" hidden>`}},
		{"one", trials(running), []string{`<div id="trial" aria-live="off">`, `>10 % of the connections<`, `>0 s left<`, `>Generation 4, the successor<`, `>0.5 %<`,
			`>1,312 requests · 7 failed · 0 denied · 0 redirected · 0 empty<`, `>Generation 3, the predecessor<`}},
		// The reason is for the operators.
		{"the verdict", trials(&upgrade.TrialStatus{Verdict: upgrade.VerdictBad, Reason: "secret"}), []string{`<span id="trialWord" class="bad">bad</span>`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			response, page := testserver.Do(t, testserver.Serve(t, New(Options{Identity: identity, Trial: test.trial})), "GET", "/")
			testserver.CheckPolicy(t, response, page)
			for _, want := range test.want {
				if !strings.Contains(page, want) {
					t.Errorf("got %s, want %s in it", page, want)
				}
			}
			testserver.Equal(t, "has the reason", strings.Contains(page, "secret"), false)
		})
	}
}

func TestPageEventsOfATrial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Pointer[upgrade.TrialStatus]
		ctx, cancel := context.WithCancel(t.Context())
		w := &testserver.Written{ResponseRecorder: httptest.NewRecorder()}
		done := make(chan struct{})
		go func() {
			defer close(done)
			New(Options{Identity: identity, Trial: now.Load}).ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", "/events", nil))
		}()
		time.Sleep(3*time.Second + time.Millisecond) // of the bubble's clock
		now.Store(&upgrade.TrialStatus{Stage: upgrade.StageTrial, Ends: time.Now().Add(2500 * time.Millisecond)})
		time.Sleep(4 * time.Second)
		now.Store(&upgrade.TrialStatus{Verdict: upgrade.VerdictGood})
		time.Sleep(6 * time.Second)
		now.Store(nil)
		time.Sleep(time.Second)
		cancel()
		<-done
		var got []string
		for event := range strings.SplitSeq(strings.TrimSpace(w.Body.String()), "\n\n") {
			kind, data, _ := strings.Cut(event[strings.Index(event, "event: ")+7:], "\n")
			for _, word := range []string{"null", "2 s left", "1 s left", "0 s left", `"good"`} {
				if strings.Contains(data, word) {
					kind += " " + word
				}
			}
			got = append(got, kind)
		}
		want := []string{"identity", "trial null", "trial 2 s left", "trial 1 s left", "trial 0 s left", `trial "good"`, "ping", "trial null"}
		testserver.Equal(t, "events", strings.Join(got, ", "), strings.Join(want, ", "))
	})
}

// Whoever opens more streams than there are places takes nothing but those.
func TestPageEventsAreForSoMany(t *testing.T) {
	server := testserver.Serve(t, New(Options{Identity: identity}))
	var leave []context.CancelFunc
	for range pageClients {
		ctx, cancel := context.WithCancel(t.Context())
		leave = append(leave, cancel)
		testserver.Events(t, server, ctx)
	}
	for _, method := range []string{"GET", "HEAD"} {
		response, body := testserver.Do(t, server, method, "/events")
		testserver.Equal(t, method+" of one more", response.StatusCode, http.StatusServiceUnavailable)
		testserver.Equal(t, "Retry-After", response.Header.Get("Retry-After"), "5")
		testserver.Equal(t, "says why", method == "HEAD" || strings.Contains(body, "too many clients"), true)
	}
	response, _ := testserver.Do(t, server, "GET", "/")
	testserver.Equal(t, "the page", response.StatusCode, http.StatusOK)
	leave[0]()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		response, _ = testserver.Do(t, server, "HEAD", "/events")
		if response.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the place of one who left stays taken")
		}
	}
}

func TestPageEventsPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		recorder := httptest.NewRecorder()
		done := make(chan struct{})
		go func() {
			defer close(done)
			New(Options{Identity: identity}).ServeHTTP(recorder, httptest.NewRequestWithContext(ctx, "GET", "/events", nil))
		}()
		time.Sleep(2*pingEvery + time.Second) // of the bubble's clock
		cancel()
		<-done
		testserver.Equal(t, "pings", strings.Count(recorder.Body.String(), "event: ping\ndata:\n\n"), 2)
	})
}

package server

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What crypto/tls might do otherwise in a release to come.
func TestTLSSelfTest(t *testing.T) {
	capturing := captureSecrets
	secretless := func(*tls.Config) {}
	for name, test := range map[string]struct {
		capture func(*tls.Config)
		change  func(config, client *tls.Config)
		want    tlsTalk
		ok      bool
	}{
		"as expected":        {capturing, nil, tlsTalk{tickets: 1}, true},
		"without tickets":    {capturing, func(config, _ *tls.Config) { config.SessionTicketsDisabled = true }, tlsTalk{}, true},
		"none wanted":        {capturing, func(_, client *tls.Config) { client.ClientSessionCache = nil }, tlsTalk{}, true},
		"no ticket":          {capturing, func(config, _ *tls.Config) { config.SessionTicketsDisabled = true }, tlsTalk{tickets: 1}, false},
		"one ticket more":    {capturing, nil, tlsTalk{}, false},
		"no resumption":      {capturing, nil, tlsTalk{tickets: 1, resumed: true}, false},
		"no secrets":         {secretless, nil, tlsTalk{tickets: 1}, false},
		"an older version":   {capturing, func(_, client *tls.Config) { client.MinVersion, client.MaxVersion = 0, tls.VersionTLS12 }, tlsTalk{tickets: 1}, false},
		"a failed handshake": {capturing, func(_, client *tls.Config) { client.InsecureSkipVerify = false }, tlsTalk{tickets: 1}, false},
		"an hour a step": {func(config *tls.Config) {
			config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { time.Sleep(time.Hour); return nil, nil }
			captureSecrets(config)
		}, func(_, client *tls.Config) {
			client.VerifyConnection = func(tls.ConnectionState) error { time.Sleep(time.Hour); return nil }
		}, tlsTalk{tickets: 1}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				certificate, err := checkCertificate()
				if err != nil {
					t.Fatal(err)
				}
				s := New(Options{Handler: http.NotFoundHandler(), Logger: slog.New(slog.DiscardHandler)})
				config := &tls.Config{Certificates: []tls.Certificate{certificate}}
				client := &tls.Config{InsecureSkipVerify: true, ServerName: checkName, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
				if test.change != nil {
					test.change(config, client)
				}
				test.capture(config)
				if err := s.converseTLS(config, client, test.want); (err == nil) != test.ok {
					t.Errorf("got %v, want success %t", err, test.ok)
				}
			})
		})
	}
}

func TestTLSSelfTestPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		s := New(Options{Handler: http.NotFoundHandler(), Logger: slog.New(slog.NewTextHandler(&logged, nil))})
		if !s.ownsRecords() || strings.Contains(logged.String(), "WARN") {
			t.Errorf("logged %s", &logged)
		}
	})
}

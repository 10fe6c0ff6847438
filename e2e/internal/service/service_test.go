package service

import (
	"strings"
	"testing"
)

func TestSplitAddress(t *testing.T) {
	tests := []struct{ listen, network, address string }{
		{"127.0.0.1:80", "tcp", "127.0.0.1:80"},
		{"tls:127.0.0.1:443", "tcp", "127.0.0.1:443"},
		{"unix:/run/s", "unix", "/run/s"},
	}
	for _, tt := range tests {
		if network, address := SplitAddress(tt.listen); network != tt.network || address != tt.address {
			t.Errorf("%s: got %s %s, want %s %s", tt.listen, network, address, tt.network, tt.address)
		}
	}
}

// No two services get the same address, so that a port that is free stays so.
func TestAddressesAreGivenOnce(t *testing.T) {
	seen := make(map[string]bool)
	host := Loopback()
	for range 20 {
		port := FreePort(t, host)
		if seen[port] {
			t.Errorf("port %s: given twice", port)
		}
		seen[port] = true
	}
	if other := Loopback(); other == host || !strings.HasPrefix(other, "127.") {
		t.Errorf("got %s after %s, want another address of 127.0.0.0/8", other, host)
	}
}

func TestTail(t *testing.T) {
	log := "a\n" + `{"msg":"request"}` + "\n" + strings.Repeat("x", 700) + "\nb\n"
	if got := Tail(log, 1); got != "b" {
		t.Errorf("last line: got %q, want b", got)
	}
	if got := Tail(WithoutRequests(log), 9); strings.Contains(got, "request") || len(got) > 620 {
		t.Errorf("without requests: got %d bytes, %.40q", len(got), got)
	}
}

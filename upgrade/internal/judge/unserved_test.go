package judge

import "testing"

func TestUnserved(t *testing.T) {
	tests := []struct {
		connections uint64
		want        string
	}{
		{0, ""},
		{2, ""},
		{3, "3 clients have connected to 127.0.0.1:80, where the successor does not listen"},
		{1234, "1,234 clients have connected to 127.0.0.1:80, where the successor does not listen"},
	}
	for _, tt := range tests {
		if got := Unserved("127.0.0.1:80", tt.connections); got != tt.want {
			t.Errorf("%d connections: got %q, want %q", tt.connections, got, tt.want)
		}
	}
}

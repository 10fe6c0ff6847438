package http1

import (
	"errors"
	"fmt"
	"time"
)

func Answers(network, address string) bool {
	resp, err := Fetch(network, address, "GET", "/100.bin")
	return err == nil && resp.Status == 200
}

// Ask makes one request on a connection that is to be kept.
func Ask(c *Conn) error {
	c.SetDeadline(time.Now().Add(15 * time.Second))
	if _, err := c.Write(Request("GET", "/100.bin", nil)); err != nil {
		return err
	}
	var resp Response
	if err := c.Receive("GET", &resp); err != nil {
		return err
	}
	if resp.Status != 200 || len(resp.Body) != 100 {
		return fmt.Errorf("got status %d, %d bytes, want 200, 100", resp.Status, len(resp.Body))
	}
	if resp.Close {
		return errors.New("got Connection: close, want the connection kept")
	}
	return nil
}

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"sync"

	"example.com/baton/server"
	"example.com/baton/upgrade"
)

// hits collects rows in memory, until there are enough to write.
type hits struct {
	db   *sql.DB
	mu   sync.Mutex
	rows []string
}

func (h *hits) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rows = append(h.rows, r.URL.Path)
	if len(h.rows) >= 1000 {
		h.write(r.Context())
	}
	fmt.Fprintln(w, "hello from", os.Getpid())
}

// write writes the rows; what fails stays in memory for the next time.
func (h *hits) write(ctx context.Context) error {
	for len(h.rows) > 0 {
		if _, err := h.db.ExecContext(ctx, "INSERT INTO hits (path) VALUES ($1)", h.rows[0]); err != nil {
			return err
		}
		h.rows = h.rows[1:]
	}
	return nil
}

func main() {
	signals := upgrade.Signals()
	gen, err := upgrade.New(upgrade.Options{})
	if err != nil {
		log.Fatal(err)
	}
	db, err := sql.Open("postgres", os.Getenv("DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	h := &hits{db: db}
	// In each generation, at the end of its drain: when a successor has taken over, too.
	gen.OnExit("database", func(ctx context.Context) error {
		h.mu.Lock()
		defer h.mu.Unlock()
		return errors.Join(h.write(ctx), db.Close())
	})
	// Once, when the service stops. Hooks run in reverse order, so that db is still open.
	gen.OnStop("registry", func(ctx context.Context) error {
		_, err := db.ExecContext(ctx, "DELETE FROM instances WHERE address = $1", "127.0.0.1:8082")
		return err
	})
	ln, err := gen.Listen("127.0.0.1:8082")
	if err != nil {
		log.Fatal(err)
	}
	srv := server.New(server.Options{Handler: h})
	srv.Add(ln)
	if err := gen.Run(srv, signals); err != nil {
		log.Fatal(err)
	}
}

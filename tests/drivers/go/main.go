// Program drivers checks a Go driver against the server that PGHOST, PGPORT, PGUSER and PGDATABASE name (over TLS if
// PGSSLMODE and PGSSLROOTCERT say so):
//
//	drivers pgx|pq
//
// CLIENTS clients work at the same time for SECONDS seconds a check; each one checks that every row it gets is its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const leastRounds = 3

var (
	clients  = int(number("CLIENTS", 12))
	duration = time.Duration(number("SECONDS", 1) * float64(time.Second))
	address  = fmt.Sprintf("host=%s port=%s user=%s dbname=%s %s",
		os.Getenv("PGHOST"), os.Getenv("PGPORT"), os.Getenv("PGUSER"), os.Getenv("PGDATABASE"), encryption())
)

func encryption() string {
	if mode := os.Getenv("PGSSLMODE"); mode != "" {
		return fmt.Sprintf("sslmode=%s sslrootcert=%s", mode, os.Getenv("PGSSLROOTCERT"))
	}
	return "sslmode=disable"
}

func main() {
	suites := map[string]func(context.Context){"pgx": runPgx, "pq": runPq}
	suite, known := suites[os.Args[len(os.Args)-1]]
	if !known {
		fmt.Println("usage: drivers pgx|pq")
		os.Exit(2)
	}
	suite(context.Background())
	fmt.Println("all checks passed")
}

func number(name string, otherwise float64) float64 {
	if value, err := strconv.ParseFloat(os.Getenv(name), 64); err == nil {
		return value
	}
	return otherwise
}

// check runs body and prints a line for it; an error ends the program.
func check(name string, body func() (int, error)) {
	began := time.Now()
	rounds, err := body()
	if err != nil {
		fmt.Printf("FAILED %s: %v\n", name, err)
		os.Exit(1)
	}
	fmt.Printf("ok %s (%d ms, %d rounds)\n", name, time.Since(began).Milliseconds(), rounds)
}

// must is for preparations, which are no check of their own.
func must(err error) {
	if err != nil {
		fmt.Printf("FAILED outside of any check: %v\n", err)
		os.Exit(1)
	}
}

// together lets each client do rounds of work(tag, round) until the time is over; answers how many they did in all.
// open is called once for each client and answers its work and what closes its connection.
func together(open func(tag int) (work func(round int) error, end func(), err error)) (int, error) {
	var total atomic.Int64
	var wait sync.WaitGroup
	failures := make([]error, clients)
	deadline := time.Now().Add(duration)
	for tag := range clients {
		wait.Go(func() {
			work, end, err := open(tag)
			if err != nil {
				failures[tag] = fmt.Errorf("client %d connects: %w", tag, err)
				return
			}
			defer end()
			for round := 0; round < leastRounds || time.Now().Before(deadline); round++ {
				if err := work(round); err != nil {
					failures[tag] = fmt.Errorf("client %d, round %d: %w", tag, round, err)
					return
				}
				total.Add(1)
			}
		})
	}
	wait.Wait()
	return int(total.Load()), errors.Join(failures...)
}

// same answers an error unless got is want.
func same(what string, got, want any) error {
	if !reflect.DeepEqual(got, want) {
		return fmt.Errorf("%s: got %v, wanted %v", what, got, want)
	}
	return nil
}

// fails answers an error unless err carries one of these SQLSTATEs, as both drivers tell it.
func fails(what string, err error, states ...string) error {
	var told interface{ SQLState() string }
	if errors.As(err, &told) {
		for _, state := range states {
			if told.SQLState() == state {
				return nil
			}
		}
	}
	return fmt.Errorf("%s: got error %v, wanted %v", what, err, states)
}

// cancels makes attempts at cancelling a statement that sleeps for two seconds: a request that overtakes its statement
// has no effect. attempt answers the statement's error.
func cancels(attempt func(after time.Duration) error) error {
	var err error
	for attempts := 0; attempts < 5 && err == nil; attempts++ {
		err = attempt(time.Duration(20+100*attempts) * time.Millisecond)
	}
	return fails("cancelled", err, "57014")
}

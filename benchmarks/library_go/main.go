// The Go client's Object Store as one more client of the library benchmark: see benchmarks/clients.
//
//	bench URL BUCKET put|get|get-file FILE
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func work(ctx context.Context, store jetstream.ObjectStore, operation, path string) error {
	switch operation {
	case "put":
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = store.Put(ctx, jetstream.ObjectMeta{Name: "object"}, file)
		return err
	case "get", "get-file":
		var target io.Writer = io.Discard
		if operation == "get-file" {
			file, err := os.Create(path)
			if err != nil {
				return err
			}
			defer file.Close()
			target = file
		}
		object, err := store.Get(ctx, "object")
		if err != nil {
			return err
		}
		_, err = io.Copy(target, object)
		return err
	}
	return fmt.Errorf("no operation %q", operation)
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

func run() error {
	connection, err := nats.Connect(os.Args[1])
	if err != nil {
		return err
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	store, err := js.ObjectStore(ctx, os.Args[2])
	if err != nil {
		return err
	}
	began, cpu := time.Now(), cpuSeconds()
	if err := work(ctx, store, os.Args[3], os.Args[4]); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]float64{
		"seconds": time.Since(began).Seconds(), "cpu": cpuSeconds() - cpu,
	})
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

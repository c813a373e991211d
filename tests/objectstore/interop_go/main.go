// The Go client's Object Store, driven by JSON lines: one command per line on stdin, one answer per line on stdout.
//
//	{"op":"put","name":"a","data":"base64","metadata":{"k":"v"}}  ->  {"ok":{...info...}} or {"error":"..."}
//
// Arguments: the server's URL and the bucket, which must exist.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

type command struct {
	Op          string            `json:"op"`
	Name        string            `json:"name"`
	To          string            `json:"to"`
	Data        []byte            `json:"data"`
	Description string            `json:"description"`
	Metadata    map[string]string `json:"metadata"`
	Headers     nats.Header       `json:"headers"`
	ChunkSize   uint32            `json:"chunk_size"`
	Deleted     bool              `json:"deleted"`
}

func run(ctx context.Context, store jetstream.ObjectStore, c command) (any, error) {
	switch c.Op {
	case "put":
		meta := jetstream.ObjectMeta{Name: c.Name, Description: c.Description, Metadata: c.Metadata, Headers: c.Headers}
		if c.ChunkSize > 0 {
			meta.Opts = &jetstream.ObjectMetaOptions{ChunkSize: c.ChunkSize}
		}
		return store.Put(ctx, meta, bytes.NewReader(c.Data))
	case "get":
		result, err := store.Get(ctx, c.Name)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(result)
	case "info":
		if c.Deleted {
			return store.GetInfo(ctx, c.Name, jetstream.GetObjectInfoShowDeleted())
		}
		return store.GetInfo(ctx, c.Name)
	case "delete":
		return nil, store.Delete(ctx, c.Name)
	case "rename":
		return nil, store.UpdateMeta(ctx, c.Name, jetstream.ObjectMeta{Name: c.To})
	case "link":
		info, err := store.GetInfo(ctx, c.To)
		if err != nil {
			return nil, err
		}
		return store.AddLink(ctx, c.Name, info)
	case "list":
		found, err := store.List(ctx)
		if err == jetstream.ErrNoObjectsFound {
			return []string{}, nil
		}
		if err != nil {
			return nil, err
		}
		names := []string{}
		for _, info := range found {
			names = append(names, info.Name)
		}
		return names, nil
	case "seal":
		return nil, store.Seal(ctx)
	case "status":
		status, err := store.Status(ctx)
		if err != nil {
			return nil, err
		}
		return map[string]any{"sealed": status.Sealed(), "description": status.Description(),
			"compressed": status.IsCompressed(), "metadata": status.Metadata()}, nil
	}
	return nil, fmt.Errorf("no operation %q", c.Op)
}

func main() {
	connection, err := nats.Connect(os.Args[1])
	if err != nil {
		panic(err)
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		panic(err)
	}
	store, err := js.ObjectStore(context.Background(), os.Args[2])
	if err != nil {
		panic(err)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	out := json.NewEncoder(os.Stdout)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			panic(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		result, err := run(ctx, store, c)
		cancel()
		if err != nil {
			_ = out.Encode(map[string]any{"error": err.Error()})
		} else {
			_ = out.Encode(map[string]any{"ok": result})
		}
	}
}

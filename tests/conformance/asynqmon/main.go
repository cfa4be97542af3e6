// Command asynqmon serves asynqmon's page and API on a loopback port, as a second eye on what is in Redis. It is
// compiled with an older asynq than the other programs, as asynqmon's last release is.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/hibiken/asynq"
	"github.com/hibiken/asynqmon"
	"github.com/redis/go-redis/v9"
)

func main() {
	redisURL := flag.String("redis", "redis://127.0.0.1:6379/0", "URL of the Redis to use")
	listen := flag.String("listen", "127.0.0.1:0", "address to serve on; port 0 for any free one")
	readOnly := flag.Bool("read-only", false, "refuse what changes something")
	flag.Parse()

	connection, err := connect(*redisURL)
	if err != nil {
		fatal(err)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		fatal(err)
	}
	monitor := asynqmon.New(asynqmon.Options{RedisConnOpt: connection, ReadOnly: *readOnly})
	server := &http.Server{Handler: monitor}

	ctx, end := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	go func() { // whoever started this program has gone, or wants it to end
		_, _ = io.Copy(io.Discard, os.Stdin)
		end()
	}()
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	report(map[string]any{"event": "ready", "url": "http://" + listener.Addr().String()})
	if err := server.Serve(listener); err != http.ErrServerClosed {
		fatal(err)
	}
	monitor.Close()
	report(map[string]any{"event": "stopped"})
}

// connect reads a URL as redis-py writes them: redis://, rediss:// or unix://, or redis-cluster://host:port,host:port.
func connect(rawURL string) (asynq.RedisConnOpt, error) {
	if hosts, isCluster := strings.CutPrefix(rawURL, "redis-cluster://"); isCluster {
		out := asynq.RedisClusterClientOpt{}
		if user, rest, found := strings.Cut(hosts, "@"); found {
			who, err := url.Parse("redis://" + user + "@host")
			if err != nil {
				return nil, err
			}
			out.Username = who.User.Username()
			out.Password, _ = who.User.Password()
			hosts = rest
		}
		out.Addrs = strings.Split(strings.TrimSuffix(hosts, "/"), ",")
		return out, nil
	}
	options, err := redis.ParseURL(rawURL)
	if err != nil {
		return nil, err
	}
	return asynq.RedisClientOpt{
		Network: options.Network, Addr: options.Addr, Username: options.Username, Password: options.Password,
		DB: options.DB, TLSConfig: options.TLSConfig,
	}, nil
}

func report(event map[string]any) {
	if err := json.NewEncoder(os.Stdout).Encode(event); err != nil {
		fatal(err)
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

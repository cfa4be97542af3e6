// Package connect opens Redis from a URL as redis-py writes them.
package connect

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Redis returns a client for rawURL: redis://, rediss:// or unix:// for one server, redis-cluster://host:port,host:port
// for a Cluster. Its connections carry name (CLIENT SETNAME), "" for none.
func Redis(rawURL, name string) (redis.UniversalClient, error) {
	if strings.HasPrefix(rawURL, "redis-cluster://") {
		return cluster(rawURL, name)
	}
	options, err := redis.ParseURL(rawURL)
	if err != nil {
		return nil, fmt.Errorf("--redis: %w", err)
	}
	options.ClientName = name
	return redis.NewClient(options), nil
}

func cluster(rawURL, name string) (redis.UniversalClient, error) {
	hosts := strings.TrimPrefix(rawURL, "redis-cluster://")
	options := &redis.ClusterOptions{ClientName: name}
	if user, rest, found := strings.Cut(hosts, "@"); found {
		who, err := url.Parse("redis://" + user + "@host")
		if err != nil {
			return nil, fmt.Errorf("--redis: %w", err)
		}
		options.Username = who.User.Username()
		options.Password, _ = who.User.Password()
		hosts = rest
	}
	options.Addrs = strings.Split(strings.TrimSuffix(hosts, "/"), ",")
	return redis.NewClusterClient(options), nil
}

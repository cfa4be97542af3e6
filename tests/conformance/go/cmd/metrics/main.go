// Command metrics is the collector of asynq's x/metrics: whenever a line comes in, it answers with a scrape.
package main

import (
	"flag"
	"strings"

	"github.com/hibiken/asynq"
	"github.com/hibiken/asynq/x/metrics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"aioasynq/conformance/internal/connect"
	"aioasynq/conformance/internal/lines"
)

func main() {
	url := flag.String("redis", "redis://127.0.0.1:6379/0", "URL of the Redis to use")
	flag.Parse()
	redis, err := connect.Redis(*url, "")
	if err != nil {
		lines.Fatal(err)
	}
	defer redis.Close()
	collector := metrics.NewQueueMetricsCollector(asynq.NewInspectorFromRedisClient(redis))
	lines.Each(func(lines.Object) {
		// A registry asks a collector once what it has, and takes nothing else later; so a new one each time.
		registry := prometheus.NewRegistry()
		registry.MustRegister(collector)
		lines.Answer(scrape(registry))
	})
}

func scrape(registry *prometheus.Registry) (string, error) {
	families, err := registry.Gather()
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			return "", err
		}
	}
	return text.String(), nil
}

module aioasynq/conformance/go_2020

go 1.24.0

require (
	github.com/go-redis/redis/v7 v7.0.0-beta.4
	github.com/hibiken/asynq v0.1.0
)

require (
	github.com/rs/xid v1.2.1 // indirect
	github.com/spf13/cast v1.3.1 // indirect
)

// Command hop stands between clients and a Redis and lets each answer arrive later, as if the two were a network apart.
// It prints the port it listens on.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// What a connection may hold back before it reads no more; enough for the answers of a fast link.
const chunks, chunk = 1024, 64 << 10

type late struct {
	due  time.Time
	data []byte
}

func main() {
	if len(os.Args) != 3 {
		fail(fmt.Errorf("usage: hop HOST:PORT DELAY"))
	}
	delay, err := time.ParseDuration(os.Args[2])
	if err != nil {
		fail(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	for {
		client, err := listener.Accept()
		if err != nil {
			fail(err)
		}
		go serve(client, os.Args[1], delay)
	}
}

func serve(client net.Conn, address string, delay time.Duration) {
	redis, err := net.Dial("tcp", address)
	if err != nil {
		client.Close()
		return
	}
	answers := make(chan late, chunks)
	go func() { // asked at once
		io.Copy(redis, client)
		redis.Close()
	}()
	go func() {
		defer close(answers)
		for {
			data := make([]byte, chunk)
			count, err := redis.Read(data)
			if err != nil {
				return
			}
			answers <- late{time.Now().Add(delay), data[:count]}
		}
	}()
	for answer := range answers { // answered later
		time.Sleep(time.Until(answer.due))
		if _, err := client.Write(answer.data); err != nil {
			break
		}
	}
	client.Close()
	for range answers { // until the reader has seen that it is over
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// Command asynq is the adapter of asynq: a worker, or the process that enqueues.
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/hibiken/asynq"
)

const (
	step         = 100 * time.Millisecond
	held         = 200 * time.Millisecond
	look         = 10 * time.Millisecond // how often an idle server looks at its queue
	payloadBytes = 100
	callers      = 50 // there is no call for many tasks
)

func main() {
	redis, err := asynq.ParseRedisURI(os.Getenv("BENCH_REDIS_URL"))
	if err != nil {
		log.Fatal(err)
	}
	if os.Args[1] == "worker" {
		work(redis)
	} else {
		produce(redis)
	}
}

func work(redis asynq.RedisConnOpt) {
	slots, err := strconv.Atoi(os.Getenv("BENCH_SLOTS"))
	if err != nil {
		log.Fatal(err)
	}
	pipe, err := os.OpenFile(os.Getenv("BENCH_REPORTS"), os.O_WRONLY, 0)
	if err != nil {
		log.Fatal(err)
	}
	report := func(event string, task *asynq.Task) error {
		payload := task.Payload()
		_, err := fmt.Fprintf(pipe, "%s%s %s\n", event, os.Getenv("BENCH_WORKER"), payload[len(payload)-8:])
		return err
	}
	tasks := asynq.NewServeMux()
	tasks.HandleFunc("noop", func(_ context.Context, task *asynq.Task) error {
		return report("e", task)
	})
	tasks.HandleFunc("sleep", func(_ context.Context, task *asynq.Task) error {
		time.Sleep(step)
		return report("e", task)
	})
	tasks.HandleFunc("hold", func(_ context.Context, task *asynq.Task) error {
		if err := report("b", task); err != nil {
			return err
		}
		time.Sleep(held)
		return report("e", task)
	})
	server := asynq.NewServer(redis, asynq.Config{
		Concurrency:       slots,
		TaskCheckInterval: look,
		LogLevel:          asynq.ErrorLevel,
	})
	if err := server.Run(tasks); err != nil {
		log.Fatal(err)
	}
}

// produce enqueues what the driver asks for, a line `kind first amount` at a time.
func produce(redis asynq.RedisConnOpt) {
	client := asynq.NewClient(redis)
	if err := client.Ping(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var kind string
		var first, amount int
		if _, err := fmt.Sscan(lines.Text(), &kind, &first, &amount); err != nil {
			log.Fatal(err)
		}
		enqueue(client, kind, first, amount)
		fmt.Println("sent")
	}
}

func enqueue(client *asynq.Client, kind string, first, amount int) {
	numbers := make(chan int)
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for number := range numbers {
				payload := fmt.Sprintf("%0*d", payloadBytes, number)
				if _, err := client.Enqueue(asynq.NewTask(kind, []byte(payload))); err != nil {
					log.Fatal(err)
				}
			}
		})
	}
	for number := first; number < first+amount; number++ {
		numbers <- number
	}
	close(numbers)
	group.Wait()
}

// Where Redis is, and the report of a task: one write of 12 bytes into the driver's named pipe.

import { openSync, writeSync } from 'node:fs';

const worker = process.env.BENCH_WORKER ?? '-';
const pipe = openSync(process.env.BENCH_REPORTS, 'w');
const redis = new URL(process.env.BENCH_REDIS_URL);

export const connection = {
  host: redis.hostname,
  port: Number(redis.port),
  maxRetriesPerRequest: null,
};

export const begun = (payload) => writeSync(pipe, `b${worker} ${payload.slice(-8)}\n`);
export const ended = (payload) => writeSync(pipe, `e${worker} ${payload.slice(-8)}\n`);

// BullMQ: one worker with as many jobs at once as it has slots.

import { setTimeout as pause } from 'node:timers/promises';
import { Worker } from 'bullmq';
import { begun, connection, ended } from './reporting.mjs';

const STEP_MS = 100;
const HELD_MS = 200;

const kinds = {
  async noop(payload) {
    ended(payload);
  },
  async sleep(payload) {
    await pause(STEP_MS);
    ended(payload);
  },
  async hold(payload) {
    begun(payload);
    await pause(HELD_MS);
    ended(payload);
  },
  async step() {
    await pause(STEP_MS);
  },
};

new Worker('bench', (job) => kinds[job.name](job.data.payload), {
  connection,
  concurrency: Number(process.env.BENCH_SLOTS),
  removeOnComplete: { count: 0 },
});

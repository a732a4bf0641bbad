// The enqueuing process of BullMQ: a line from the driver, `kind first amount`, jobs in bulk.

import { createInterface } from 'node:readline';
import { FlowProducer, Queue } from 'bullmq';
import { connection } from './reporting.mjs';

const BATCH = 250;
const PAYLOAD_BYTES = 100;
const queueName = 'bench';
const queue = new Queue(queueName, { connection });
const flows = new FlowProducer({ connection });

const job = (name, payload, children = []) => ({
  name,
  queueName,
  data: { payload },
  opts: { removeOnComplete: true },
  ...(children.length && { children }),
});

// A parent runs after its children: the last step is the root.
const chain = (payload) =>
  job('sleep', payload, [job('step', payload, [job('step', payload)])]);

async function enqueue(kind, payloads) {
  for (let start = 0; start < payloads.length; start += BATCH) {
    const batch = payloads.slice(start, start + BATCH);
    if (kind === 'chain') await flows.addBulk(batch.map(chain));
    else await queue.addBulk(batch.map((payload) => job(kind, payload)));
  }
}

await queue.waitUntilReady();
console.log('ready');
for await (const line of createInterface({ input: process.stdin })) {
  const [kind, first, amount] = line.split(' ');
  const numbers = Array.from({ length: Number(amount) }, (_, index) => Number(first) + index);
  await enqueue(kind, numbers.map((number) => String(number).padStart(PAYLOAD_BYTES, '0')));
  console.log('sent');
}
process.exit(0);

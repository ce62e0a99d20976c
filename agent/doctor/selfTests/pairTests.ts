import { backPressureTest } from './backPressure.ts';
import { closingTest, halfClosingTest, resetTest } from './closing.ts';
import { kernelTlsTest } from './kernelTls.ts';
import { messageOrderTest } from './messageOrder.ts';
import { peekingTest } from './peeking.ts';
import { readableBytesTest } from './readableBytes.ts';
import type { SelfTest } from './selfTest.ts';
import { splicingTest } from './splicing.ts';
import { urgentDataTest } from './urgentData.ts';
import { wakeUpTest } from './wakeUp.ts';
import { zeroCopyTest } from './zeroCopy.ts';

/** The tests of two sockets, in the order of the report. */
export const PAIR_TESTS: readonly SelfTest[] = [
  messageOrderTest,
  wakeUpTest,
  peekingTest,
  backPressureTest,
  closingTest,
  halfClosingTest,
  resetTest,
  readableBytesTest,
  splicingTest,
  zeroCopyTest,
  urgentDataTest,
  kernelTlsTest,
];

// Subscribers to training events: a progress bar on a terminal, plain lines without one, JSON lines on request, and the loss curve at the end.

import asciichart from "asciichart";
import { SingleBar } from "cli-progress";
import type { EndEvent, StartEvent, StepEvent, TrainEvent } from "../train/events.ts";
import { formatCount, formatDuration, note, print, printJson } from "./output.ts";

export interface TrainView {
  event(event: TrainEvent): void;
  /** Ends the display, also after an error. */
  close(): void;
}

/** One object a line: the library's events, with tokens or images for items; at the end a summary. */
export function jsonView(): TrainView {
  let item = "item";
  return {
    event(event) {
      if (event.type === "start") {
        const { itemsPerStep, item: what, ...rest } = event;
        item = what;
        printJson({ ...rest, [`${item}sPerStep`]: itemsPerStep });
      } else if (event.type === "step") {
        const { itemsPerSecond, ...rest } = event;
        printJson({ ...rest, [`${item}sPerSecond`]: itemsPerSecond });
      } else if (event.type === "end") {
        const { type: _type, step: steps, ...rest } = event;
        printJson({ summary: { steps, ...rest } });
      } else printJson(event);
    },
    close() {},
  };
}

/** Milliseconds between lines where there is no terminal. */
const lineEveryMs = 2000;

/** A bar where stderr is a terminal, else a line now and then. */
export function textView(): TrainView {
  return process.stderr.isTTY && process.env.TERM !== "dumb" ? barView() : lineView();
}

function startLines({
  notes,
  task,
  parameters,
  engine,
  reason,
  precision,
  firstStep,
  steps,
  itemsPerStep,
  item,
}: StartEvent): string[] {
  if (firstStep > steps)
    return [`engine: ${engine} (${reason})`, `the run is at step ${steps} already; give a larger --steps to go on`];
  const from = firstStep === 1 ? `${steps} steps` : `steps ${firstStep} to ${steps}`;
  return [
    `engine: ${engine} (${reason})`,
    `model: ${task}, ${formatCount(parameters)} parameters; ${precision}`,
    `run: ${from} of ${formatCount(itemsPerStep)} ${item}s`,
    ...notes,
  ];
}

function stepText({ loss, learningRate, itemsPerSecond, skipped }: StepEvent, item: string): string {
  const note_ = skipped ? "  overflow: step skipped" : "";
  return `loss ${loss.toFixed(3)}  lr ${learningRate.toExponential(1)}  ${formatCount(itemsPerSecond)} ${item}s/s${note_}`;
}

function measuredText(loss: number, accuracy: number | undefined): string {
  return `validation loss ${loss.toFixed(3)}${accuracy === undefined ? "" : `, accuracy ${(100 * accuracy).toFixed(2)} %`}`;
}

function endText({ step, finalLoss, valLoss, valAccuracy, skipped, ms }: EndEvent, item: string): string {
  const val = valLoss === undefined ? "" : `, ${measuredText(valLoss, valAccuracy)}`;
  const lost = skipped === 0 ? "" : `, ${skipped} skipped by overflow`;
  return `${step} steps in ${formatDuration(ms)}: loss ${finalLoss?.toFixed(3) ?? "unknown"}${val}${lost} (nats per ${item})`;
}

/** What bars and lines say of the rarer events. */
function announce(event: TrainEvent, item: string): void {
  if (event.type === "start") for (const line of startLines(event)) note(line);
  else if (event.type === "validation") note(`step ${event.step}: ${measuredText(event.loss, event.accuracy)}`);
  else if (event.type === "checkpoint") note(`step ${event.step}: saved ${event.path}`);
  else if (event.type === "end") note(endText(event, item));
}

function lineView(): TrainView {
  let lastLine = -lineEveryMs;
  let steps = 0;
  let item = "item";
  return {
    event(event) {
      if (event.type === "start") ({ steps, item } = event);
      if (event.type !== "step") return announce(event, item);
      const now = performance.now();
      if (now - lastLine < lineEveryMs && event.step !== steps && !event.skipped) return;
      lastLine = now;
      note(`step ${event.step}/${steps}  ${stepText(event, item)}`);
    },
    close() {},
  };
}

function barView(): TrainView {
  let bar: SingleBar | undefined;
  const stop = () => {
    bar?.stop();
    bar = undefined;
  };
  let total = 0;
  let item = "item";
  return {
    event(event) {
      if (event.type === "start") ({ steps: total, item } = event);
      if (event.type !== "step") {
        stop(); // so that the line stands above the bar, which starts again with the next step
        return announce(event, item);
      }
      if (bar === undefined) {
        bar = new SingleBar({
          format: "{bar} {value}/{total}  {text}  {eta_formatted} left",
          barCompleteChar: "█",
          barIncompleteChar: "░",
          barsize: 24,
          hideCursor: true,
          clearOnComplete: true,
          etaBuffer: 20,
          stream: process.stderr,
        });
        bar.start(total, event.step - 1, { text: "" });
      }
      bar.update(event.step, { text: stepText(event, item) });
    },
    close: stop,
  };
}

/** The losses of a run of ten steps or more as a curve of at most `width` columns, each the mean of the steps it stands for. */
export function lossCurve(
  losses: readonly number[],
  width = Math.min(72, (process.stdout.columns ?? 80) - 10),
): string {
  const finite = losses.filter(Number.isFinite);
  if (finite.length < 10) return "";
  const columns = Math.min(width, finite.length);
  const means = Array.from({ length: columns }, (_, column) => {
    const from = Math.floor((column * finite.length) / columns);
    const part = finite.slice(from, Math.max(from + 1, Math.floor(((column + 1) * finite.length) / columns)));
    return part.reduce((sum, loss) => sum + loss, 0) / part.length;
  });
  const axis = `${" ".repeat(9)}step 1${String(losses.length).padStart(Math.max(8, columns - 6))}`;
  return `${asciichart.plot(means, { height: 10, format: (x: number) => x.toFixed(2).padStart(7) })}\n${axis}`;
}

/** Prints the curve with its title. */
export function printCurve(losses: readonly number[], item = "token"): void {
  const curve = lossCurve(losses);
  if (curve !== "") print(`\ntraining loss (nats per ${item})\n${curve}\n`);
}

// The typed events of training. Everything that prints, plots or records subscribes to these; the trainer itself prints nothing.

export interface StartEvent {
  readonly type: "start";
  readonly task: string;
  readonly parameters: number;
  readonly engine: string;
  readonly reason: string;
  readonly precision: string;
  /** First step of this session, counted from 1, and the last one planned. */
  readonly firstStep: number;
  readonly steps: number;
  /** Items (tokens, images) a step, and what they are. */
  readonly itemsPerStep: number;
  readonly item: string;
  readonly compileMs: number;
  /** What a resumed run should know: engine or version differ from the checkpoint's. */
  readonly notes: readonly string[];
}

export interface StepEvent {
  readonly type: "step";
  /** Counted from 1. */
  readonly step: number;
  readonly loss: number;
  readonly learningRate: number;
  /** Global norm of the gradient before clipping; undefined where nothing needed it. */
  readonly gradNorm?: number;
  readonly lossScale: number;
  /** True where the update was skipped because something overflowed. */
  readonly skipped: boolean;
  readonly ms: number;
  readonly itemsPerSecond: number;
}

export interface ValidationEvent {
  readonly type: "validation";
  readonly step: number;
  readonly loss: number;
  /** Share of the items whose class was found, 0 to 1; for classifiers. */
  readonly accuracy?: number;
}

export interface CheckpointEvent {
  readonly type: "checkpoint";
  readonly step: number;
  readonly path: string;
}

export interface EndEvent {
  readonly type: "end";
  readonly step: number;
  /** Mean training loss of the last twentieth of the steps (1 to 20 of them) that counted; absent where none did. */
  readonly finalLoss?: number;
  readonly valLoss?: number;
  readonly valAccuracy?: number;
  /** Steps skipped because of overflow, over the whole run. */
  readonly skipped: number;
  readonly ms: number;
  /** True where a signal ended the run before its last step. */
  readonly aborted: boolean;
}

export type TrainEvent = StartEvent | StepEvent | ValidationEvent | CheckpointEvent | EndEvent;

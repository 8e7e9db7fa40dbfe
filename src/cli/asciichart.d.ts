// The part of asciichart's interface that is used; the package ships no types.

declare module "asciichart" {
  interface PlotConfig {
    readonly height?: number;
    readonly format?: (value: number, index: number) => string;
  }
  const asciichart: { plot(series: readonly number[], config?: PlotConfig): string };
  export = asciichart;
}

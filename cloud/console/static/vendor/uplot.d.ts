// What the console uses of uPlot.
export interface Plot {
  readonly ctx: CanvasRenderingContext2D;
  readonly bbox: { left: number; top: number; width: number; height: number };
  readonly cursor: { idx?: number | null; left?: number };
  readonly data: (number | null)[][];
  readonly over: HTMLElement;
  setData(data: (number | null)[][]): void;
  setSize(size: { width: number; height: number }): void;
  setSeries(index: number, options: { show: boolean }): void;
  valToPos(value: number, scale: string, canvas?: boolean): number;
  destroy(): void;
}
export type Options = Record<string, unknown> & { width: number; height: number };
declare const uPlot: { new (options: Options, data: (number | null)[][], parent: HTMLElement): Plot };
export default uPlot;

// What the console uses of htm.
type Tag<R> = (strings: TemplateStringsArray, ...values: unknown[]) => R;
declare const htm: { bind<R>(h: (type: unknown, props: Record<string, unknown> | null, ...children: any[]) => R): Tag<R> };
export default htm;

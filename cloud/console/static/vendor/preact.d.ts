// What the console uses of Preact; its own declarations also cover JSX, which is not used here.
export type Child = VNode | string | number | boolean | null | undefined | Child[];
export interface VNode { readonly type: unknown }
export type Props = Record<string, unknown>;
export function h(type: unknown, props: Props | null, ...children: Child[]): VNode;
export function render(node: VNode | null, parent: Element): void;

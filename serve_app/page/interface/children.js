// Children of a node that change while the user looks at them.

/** Makes `nodes` the children of `parent`, in their order. Those that are in their place are not moved: a node
 * that moves loses the focus. */
export function keepChildren(parent, nodes) {
  const kept = new Set(nodes);
  for (const each of [...parent.children]) if (!kept.has(each)) each.remove();
  nodes.forEach((node, at) => {
    if (parent.children[at] !== node) parent.insertBefore(node, parent.children[at] ?? null);
  });
}

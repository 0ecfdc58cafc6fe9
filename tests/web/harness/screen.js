// Runs in the page before ComfyUI's own scripts: keeps what is drawn on canvases, so that a test can read it.
(() => {
  const drawn = [];
  const fillText = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
    drawn.push(String(text));
    if (drawn.length > 20000) drawn.splice(0, 10000);
    return fillText.call(this, text, ...rest);
  };

  const told = []; // how prompts ended, by ComfyUI's own events
  const ENDS = ["execution_success", "execution_error", "execution_interrupted"];

  const plain = (value) => JSON.parse(JSON.stringify(value ?? null));

  window.offloadTest = {
    listen() {
      for (const kind of ENDS) window.app.api.addEventListener(kind, ({ detail }) => told.push({ kind, detail: plain(detail) }));
    },
    // Puts a page on which an empty workflow is open back into the state of one that was just opened.
    async forget() {
      const { worker, offer } = await import("/extensions/comfy-gpu-offload/worker_lists.js");
      Object.assign(worker, { lists: {}, state: "unknown", text: "" });
      offer(new Map());
      const { toast, workflow } = window.app.extensionManager;
      toast.removeAll();
      for (const other of [...workflow.openWorkflows]) {
        if (other !== workflow.activeWorkflow) await workflow.closeWorkflow(other);
      }
      for (const close of document.querySelectorAll(".p-dialog-close-button")) close.click();
    },
    ended: (prompt) => told.find(({ detail }) => detail.prompt_id === prompt) ?? null,
    node: (id) => window.app.graph.getNodeById(id),
    widgets: (id) =>
      offloadTest.node(id).widgets.map((widget) => ({
        name: widget.name,
        type: widget.type,
        value: plain(widget.value),
        label: widget.label ?? null,
        values: Array.isArray(widget.options?.values) ? plain(widget.options.values) : null,
      })),
    drawn() {
      drawn.length = 0;
      window.app.canvas.draw(true, true);
      return [...drawn];
    },
    // The middle of a widget as it is drawn on the canvas, in pixels of the page.
    place(id, name) {
      const node = offloadTest.node(id);
      const widget = node.widgets.find((each) => each.name === name);
      window.app.canvas.draw(true, true);
      const { offset, scale } = window.app.canvas.ds;
      const box = window.app.canvas.canvas.getBoundingClientRect();
      const height = widget.computedHeight ?? 20;
      return [
        box.left + (node.pos[0] + node.size[0] / 2 + offset[0]) * scale,
        box.top + (node.pos[1] + widget.last_y + Math.min(height, 20) / 2 + offset[1]) * scale,
      ];
    },
  };
})();

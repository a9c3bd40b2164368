// The search runs in a Worker, which browsers do not start for a page opened from the disk: there it runs in a frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.append(this.frame)
      const inner = this.frame.contentWindow
      window.addEventListener("message", event => {
        if (event.source === inner) this.dispatchEvent(new MessageEvent("message", { data: event.data }))
      })
      inner.document.open()
      this.started = new Promise(done => { inner.started = done })
      inner.document.write(`<body><script>
        postMessage = message => parent.postMessage(message, "*")
        importScripts = async (...urls) => {
          for (const src of urls)
            await new Promise(onload => document.body.append(Object.assign(document.createElement("script"), { src, onload })))
        }
      </script><script src="${url}" onload="started()"></script></body>`)
      inner.document.close()
    }

    async postMessage(data) {
      await this.started
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }))
    }

    terminate() {
      this.frame.remove()
    }
  }
}

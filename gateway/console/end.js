// Keeps the end of a growing element in sight, unless its reader has scrolled up.

export class End {
  // scrollers: elements, outermost last, of which the page's width decides which one scrolls.
  constructor(element, scrollers) {
    Object.assign(this, { element, scrollers })
  }

  scroller() {
    return this.scrollers.find((part) => getComputedStyle(part).overflowY === "auto")
  }

  // By how many pixels the end is below what is seen.
  below(scroller) {
    return this.element.getBoundingClientRect().bottom + 16 - scroller.getBoundingClientRect().bottom
  }

  isSeen() {
    const scroller = this.scroller()
    return scroller !== undefined && this.below(scroller) < 64
  }

  show() {
    const scroller = this.scroller()
    const by = scroller ? this.below(scroller) : 0
    if (by > 0) scroller.scrollTop += by
  }
}

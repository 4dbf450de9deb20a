// What a middleware uses of `next/server`, as it does it: Next.js goes on to the page when it finds this field.

export class NextResponse extends Response {
  static next() {
    return new NextResponse(null, { headers: { "x-middleware-next": "1" } });
  }
}

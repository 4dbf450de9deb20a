// A Worker that sends everything on to its origin and guards nothing.

export default {
  fetch: (request, { ORIGIN_URL }) => {
    const { pathname, search } = new URL(request.url);
    return fetch(new Request(ORIGIN_URL + pathname + search, request));
  },
};

r"""A web page over run directories: reads their files, serves this machine, changes nothing.

```
event files --nissa.tail--> RunStore (bounded) --views--> JSON --app, guard--> browser
                       \--> RunDigest (few points) --> overview, comparison
```
Starlette and uvicorn come with the extra `dashboard`; only `app`, `guard`, `streaming`, `connections` and
`server` import them.
"""
